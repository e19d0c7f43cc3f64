"""What the configuration of a DJL Serving installation means: keys, lines, orders, wrong values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowyard.platform import djl_config
from flowyard.platform.settings import Settings, listening, load_settings
from flowyard.schemas.errors import InvalidRequestError

#: Every key of a `config.properties`, another value than its default, and what becomes of it.
KEYS = [
    ("inference_address", "http://0.0.0.0:9090", "http://0.0.0.0:9090"),
    ("management_address", "unix:/run/m.sock", "unix:/run/m.sock"),
    ("cluster_address", "http://10.0.0.1:1", "http://10.0.0.1:1"),
    ("model_store", "/models", "/models"),
    ("load_models", "a=/a, b=/b", ("a=/a", "b=/b")),
    ("wait_model_loading", "false", False),
    ("allow_multi_status", "TRUE", True),
    ("load_on_devices", "gpu0;cpu", "gpu0;cpu"),
    ("job_queue_size", "10", 10),
    ("batch_size", "4 ", 4),
    ("max_batch_delay", "0", 0),
    ("max_idle_time", "5", 5),
    ("reserved_memory_mb", "1", 1),
    ("max_request_size", "1024", 1024),
    ("chunked_read_timeout", "60", 60.0),
    ("model_url_pattern", "https://a/.+", "https://a/.+"),
    ("number_of_netty_threads", "4", 4),
    ("use_native_io", "false", False),
    ("io_ratio", "70", 70),
    ("cors_allowed_origin", "*", "*"),
    ("cors_allowed_methods", "GET, POST", "GET, POST"),
    ("cors_allowed_headers", "X-A", "X-A"),
    ("keystore", "/k.p12", "/k.p12"),
    ("keystore_pass", "secret", "secret"),
    ("keystore_type", "pkcs12", "PKCS12"),
    ("private_key_file", "/key.pem", "/key.pem"),
    ("certificate_file", "/certs.pem", "/certs.pem"),
    ("plugin_folder", "p", "p"),
    ("error_rate_wlm", "1", "1"),
    ("error_rate_server", "10/PT5M", "10/PT5M"),
    ("error_rate_any", "3/PT1.5S", "3/PT1.5S"),
    ("error_rate_model", "1", "1"),
    ("bad_request_http_code", "422", 422),
    ("wlm_error_http_code", "529", 529),
    ("throttle_error_http_code", "429", 429),
    ("server_error_http_code", "599", 599),
    ("timeout_http_code", "408", 408),
    ("request_id_header_key", "X-My-Id", "X-My-Id"),
    ("grpc_address", "0.0.0.0", "0.0.0.0"),
    ("grpc_port", "1", 1),
    ("grpc_max_connection_age", "1", 1),
    ("grpc_max_connection_grace", "1", 1),
    ("WEB_ROOT", "w", "w"),
]
DEFAULTS = {
    "cluster_address": "http://127.0.0.1:8888",
    "load_on_devices": "*",
    "job_queue_size": 1000,
    "batch_size": 1,
    "max_batch_delay": 100,
    "max_idle_time": 60,
    "reserved_memory_mb": 500,
    "max_request_size": 67_108_864,
    "chunked_read_timeout": 120,
    "wait_model_loading": True,
    "allow_multi_status": False,
    "number_of_netty_threads": 0,
    "use_native_io": True,
    "io_ratio": 50,
    "keystore_pass": "changeit",
    "keystore_type": "PKCS12",
    "plugin_folder": "plugins",
    "bad_request_http_code": 400,
    "wlm_error_http_code": 503,
    "throttle_error_http_code": 503,
    "server_error_http_code": 500,
    "timeout_http_code": 400,
    "request_id_header_key": "x-request-id",
    "grpc_address": "127.0.0.1",
    "grpc_port": 8082,
    "web_root": "public",
}
NO_DEFAULT = ("model_store", "model_url_pattern", "keystore", "private_key_file", "certificate_file", "error_rate_any")


def properties(folder: Path, text: str, name: str = "config.properties") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(("key", "text", "value"), KEYS)
def test_every_key_of_the_file_is_a_setting(tmp_path, key, text, value):
    settings, warnings = load_settings(properties(tmp_path, f"# comment\n{key}={text}\n"), {}, {})
    assert getattr(settings, key.lower()) == value
    assert value != getattr(Settings(), key.lower()) or key == "keystore_type"
    idle = key.lower() in djl_config.WITHOUT_EFFECT
    assert [w.partition(" has no effect: ")[0] for w in warnings] == ([f"{tmp_path}/config.properties:2: {key}"] if idle else [])


@pytest.mark.parametrize(("key", "text", "value"), KEYS)
def test_every_key_of_the_file_is_a_variable(key, text, value):
    assert getattr(load_settings(None, {f"SERVING_{key.upper()}": text}, {})[0], key.lower()) == value


def test_the_table_of_keys_is_complete():
    assert {key.lower() for key, _, _ in KEYS} | {"min_workers", "max_workers"} == djl_config.KEYS


def test_the_defaults_are_djls():
    settings = Settings()
    assert {key: getattr(settings, key) for key in DEFAULTS} == DEFAULTS
    assert [getattr(settings, key) for key in NO_DEFAULT] == [None] * len(NO_DEFAULT)
    where = listening(settings)
    assert (str(where.inference), str(where.management)) == ("http://127.0.0.1:8080", "http://127.0.0.1:8080")


def test_serving_variables_win_over_flags_and_flags_over_the_file(tmp_path):
    file = properties(tmp_path, "batch_size=1\njob_queue_size=1\nmax_idle_time=1\nmax_batch_delay=1\n")
    env = {"SERVING_BATCH_SIZE": "4", "FLOWYARD_BATCH_SIZE": "2", "FLOWYARD_JOB_QUEUE_SIZE": "2", "FLOWYARD_MAX_IDLE_TIME": "2"}
    settings, _ = load_settings(file, env, {"batch_size": 3, "job_queue_size": 3})
    assert (settings.batch_size, settings.job_queue_size, settings.max_idle_time, settings.max_batch_delay) == (4, 3, 2, 1)


def test_the_last_of_a_repeated_key_counts(tmp_path):
    file = properties(tmp_path, "batch_size: 2\nbatchsize 2\nbatch_size 3\nbatchsize 3\n")
    settings, warnings = load_settings(file, {}, {})
    assert settings.batch_size == 3
    assert warnings == (f"{file}:4: batchsize is not a setting, did you mean batch_size?",)


def test_settings_of_ours_may_be_in_the_file(tmp_path):
    file = properties(tmp_path, "allowed_urls=https://a/ https://b/\nstate_dir=/s\n")
    settings, warnings = load_settings(file, {}, {})
    assert (settings.allowed_urls, settings.state_dir, warnings) == (("https://a/", "https://b/"), "/s", ())


def test_unknown_variables_warn(tmp_path):
    env = {
        "SERVING_FEATURES": "vllm",
        "SERVING_S3_CACHE_BUCKET": "b",
        "SERVING_BATCHSIZE": "1",
        "SERVING_PORT": "tcp://10.0.0.1:80",
    }
    settings, warnings = load_settings(None, env, {})
    assert settings.port == 8080
    assert sorted(warnings) == [
        "SERVING_BATCHSIZE is not a setting, did you mean SERVING_BATCH_SIZE?",
        "SERVING_FEATURES has no effect here",
        "SERVING_PORT is not a setting, did you mean SERVING_GRPC_PORT?",
        "SERVING_S3_CACHE_BUCKET has no effect here",
    ]


def test_what_sagemaker_says_becomes_settings(tmp_path):
    env = {
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "30",
        "SAGEMAKER_STARTUP_TIMEOUT": "50",
        "SAGEMAKER_NUM_MODEL_WORKERS": "3",
        "SAGEMAKER_REGION": "x",
    }
    settings, warnings = load_settings(properties(tmp_path, "max_request_size=1\n"), env, {})
    assert (settings.max_request_size, settings.default_timeout_s, settings.startup_timeout_s) == (6 * 2**20, 30, 50)
    assert (settings.min_workers, settings.max_workers, warnings) == (3, 3, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=1\nbatch_size=many\n", ":2: batch_size: 'many' is not allowed, allowed is a whole number from 1 to 65536"),
        ("batch_size=\n", ":1: batch_size: '' is not allowed"),
        ("\n\nwait_model_loading=maybe\n", ":3: wait_model_loading: 'maybe' is not allowed, allowed is true or false"),
        ("inference_address=127.0.0.1:8080\n", ":1: inference_address: '127.0.0.1:8080' is not allowed, allowed is http://host"),
        ("management_address=http://h:65536\n", ":1: management_address: 'http://h:65536' is not allowed"),
        ("error_rate_any=5/1M\n", ":1: error_rate_any: '5/1M' is not allowed, allowed is a number of errors"),
        ("keystore_type=JKS\n", ":1: keystore_type: 'JKS' is not allowed, allowed is one of PKCS12"),
        (
            "throttle_error_http_code=200\n",
            ":1: throttle_error_http_code: '200' is not allowed, allowed is a whole number from 400",
        ),
        ("request_id_header_key=a b\n", ":1: request_id_header_key: 'a b' is not allowed, allowed is the name of a header"),
        ("cors_allowed_origin=a\\r\\nb\n", ":1: cors_allowed_origin: 'a\\r\\nb' is not allowed"),
        ("model_url_pattern=(\n", ":1: model_url_pattern: '(' is not allowed, allowed is a regular expression"),
        ("max_batch_delay=-1\n", ":1: max_batch_delay: '-1' is not allowed, allowed is a whole number from 0 to 3600000"),
    ],
)
def test_bad_values_name_file_line_key_value_and_rule(tmp_path, text, message):
    file = properties(tmp_path, text)
    with pytest.raises(InvalidRequestError, match=re.escape(f"{file}{message}")):
        load_settings(file, {}, {})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"SERVING_BATCH_SIZE": "x"}, "SERVING_BATCH_SIZE: 'x' is not allowed"),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "6MB"}, "SAGEMAKER_MAX_PAYLOAD_IN_MB: '6MB' is not allowed, allowed is a whole number"),
    ],
)
def test_bad_variables_are_named(env, message):
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        load_settings(None, env, {})


def test_the_file_is_found_at_home(tmp_path):
    env = {"MODEL_SERVER_HOME": str(tmp_path)}
    assert load_settings(None, env, {})[0].batch_size == 1
    properties(tmp_path, "batch_size=2")
    assert load_settings(None, env, {})[0].batch_size == 2
    properties(tmp_path, "batch_size=3", "conf/config.properties")
    assert load_settings(None, env, {})[0].batch_size == 3
    assert load_settings(properties(tmp_path, "batch_size=4", "other"), env, {})[0].batch_size == 4


def test_relative_paths_start_at_home(tmp_path):
    file = properties(tmp_path, "model_store=models\nkeystore=/k.p12\n")
    env = {"MODEL_SERVER_HOME": "/opt/djl", "SERVING_CERTIFICATE_FILE": "c.pem"}
    settings, _ = load_settings(file, env, {})
    assert (settings.model_store, settings.keystore, settings.certificate_file) == ("/opt/djl/models", "/k.p12", "/opt/djl/c.pem")
    assert load_settings(file, {}, {})[0].model_store == "models"
    assert load_settings(file, env, {"model_store": "here"})[0].model_store == "here"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.properties", "a: 1", True),
        ("a.yaml", "a=1", False),
        ("config", "# comment\n\n! more\nbatch_size = 1", True),
        ("config", "# comment\nbatch_size: 1", False),
        ("config", "load: [a=b]", False),
        ("config", "", False),
        ("config.conf", "batch_size 1", True),
    ],
)
def test_the_format_of_a_file_is_told(tmp_path, name, text, expected):
    assert djl_config.is_properties(properties(tmp_path, text, name)) is expected


@pytest.mark.parametrize(
    ("text", "env", "flags", "loaded"),
    [
        ("model_store=/m\n", {}, {}, ("ALL",)),
        ("", {}, {"model_store": "/m"}, ("ALL",)),
        ("", {"SERVING_MODEL_STORE": "/m"}, {}, ("ALL",)),
        ("batch_size=1\n", {}, {}, ()),
        ("model_store=\n", {}, {}, ()),
        ("model_store=/m\nload_models=NONE\n", {}, {}, ("NONE",)),
        ("model_store=/m\n", {}, {"load": ("m=/x",)}, ()),
        ("model_store=/m\nload_models=a,b\n", {"SERVING_LOAD_MODELS": "c"}, {"load_models": "b"}, ("c",)),
    ],
)
def test_a_djl_installation_loads_its_whole_store_unless_it_says_otherwise(tmp_path, text, env, flags, loaded):
    assert load_settings(properties(tmp_path, text), env, flags)[0].load_models == loaded


def test_without_a_djl_configuration_nothing_is_loaded(tmp_path):
    file = properties(tmp_path, "model_store: /m\n", "flowyard.yaml")
    assert load_settings(file, {}, {"model_store": "/m"})[0].load_models == ()
    assert load_settings(None, {"SERVING_MODEL_STORE": "/m"}, {})[0].load_models == ("ALL",)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"config\.properties: cannot be read: No such file"):
        load_settings(tmp_path / "config.properties", {}, {})
    with pytest.raises(InvalidRequestError, match=r"config\.properties:2: \\u needs four hexadecimal digits"):
        load_settings(properties(tmp_path, "a=1\nb=\\u12\n"), {}, {})

"""What the configuration of a TorchServe or MMS installation means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowyard.platform import torchserve_config as config
from flowyard.platform.doors import doors
from flowyard.platform.settings import Settings, load_settings, settings_of
from flowyard.platform.sources import Given, from_flags
from flowyard.platform.torchserve_snapshots import model_defaults
from flowyard.schemas.errors import InvalidRequestError

#: Keys of a `config.properties`, a value, the setting and what becomes of it.
KEYS = [
    ("inference_address", "http://0.0.0.0:80", "torchserve_inference_address", "http://0.0.0.0:80"),
    ("management_address", "unix:/run/m.sock", "torchserve_management_address", "unix:/run/m.sock"),
    ("metrics_address", "https://h:9", "torchserve_metrics_address", "https://h:9"),
    ("allowed_urls", "https://a/.*, file://.*", "allowed_url_regexes", ("https://a/.*", "file://.*")),
    ("cors_allowed_origin", "http://a", "cors_allowed_origin", "http://a"),
    ("decode_input_request", "false", "decode_input_request", False),
    ("default_response_timeout", "7", "default_timeout_s", 7.0),
    ("default_startup_timeout", "8", "startup_timeout_s", 8.0),
    ("default_workers_per_model", "2", "default_workers_per_model", 2),
    ("disable_token_authorization", "true", "disable_token_authorization", True),
    ("enable_grpc_ssl", "true", "enable_grpc_ssl", True),
    ("enable_metrics_api", "false", "enable_metrics_api", False),
    ("enable_model_api", "true", "torchserve_model_api", True),
    ("grpc_inference_address", "0.0.0.0", "grpc_inference_address", "0.0.0.0"),
    ("grpc_inference_max_connection_age_grace_ms", "20", "grpc_inference_max_connection_age_grace_ms", 20),
    ("grpc_inference_max_connection_age_ms", "10", "grpc_inference_max_connection_age_ms", 10),
    ("grpc_inference_port", "7000", "grpc_inference_port", 7000),
    ("grpc_management_address", "::1", "grpc_management_address", "::1"),
    ("grpc_management_max_connection_age_grace_ms", "20", "grpc_management_max_connection_age_grace_ms", 20),
    ("grpc_management_max_connection_age_ms", "10", "grpc_management_max_connection_age_ms", 10),
    ("grpc_management_port", "0", "grpc_management_port", 0),
    ("install_py_dep_per_model", "true", "install_requirements", True),
    ("job_queue_size", "2", "job_queue_size", 2),
    ("load_models", "a.mar,b=c.mar", "load_models", ("a.mar", "b=c.mar")),
    ("max_request_size", "1000", "max_request_size", 1000),
    ("metrics_mode", "prometheus", "metrics_mode", "prometheus"),
    ("model_store", "/store", "model_store", "/store"),
    ("service_envelope", "kservev2", "service_envelope", "kservev2"),
    ("token_expiration_min", "0.25", "token_expiration_min", 0.25),
    ("ts_open_inference_protocol", "true", "ts_open_inference_protocol", "true"),
    ("ts_header_key_sequence_end", "x-last", "ts_header_key_sequence_end", "x-last"),
    ("ts_header_key_sequence_id", "x-session", "ts_header_key_sequence_id", "x-session"),
    ("ts_header_key_sequence_start", "x-first", "ts_header_key_sequence_start", "x-first"),
    ("unregister_model_timeout", "5", "unregister_model_timeout", 5.0),
    ("unregister_model_timeout", "0", "unregister_model_timeout", 0.0),
    ("default_service_handler", "service:handle", "default_service_handler", "service:handle"),
    ("metrics_config", "m.yaml", "metrics_config", "m.yaml"),
    ("model_metrics_auto_detect", "false", "model_metrics_auto_detect", False),
    ("disable_system_metrics", "true", "disable_system_metrics", True),
    ("metric_time_interval", "5", "metric_time_interval", 5.0),
    ("workflow_store", "/wars", "workflow_store", "/wars"),
]


def write(folder: Path, *lines: str) -> Path:
    file = folder / "config.properties"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def settings(dialect: config.Dialect, file: Path | None, env: dict[str, str] | None = None, **flags: object) -> Settings:
    said = config.read_config(dialect, file, env or {})
    given = [*said.given, *from_flags({**flags, "dialects": dialect}), *said.from_env]
    return settings_of(given, env or {})[0]


@pytest.mark.parametrize(("key", "value", "setting", "expected"), KEYS)
def test_a_key_of_torchserve(tmp_path, key, value, setting, expected):
    assert getattr(settings("torchserve", write(tmp_path, f"{key}={value}")), setting) == expected


@pytest.mark.parametrize(
    ("line", "variable", "expected"),
    [
        ("", "oip", "true"),
        ("ts_open_inference_protocol=true", "true", "false"),
        ("ts_open_inference_protocol=true", "", "true"),
        ("ts_open_inference_protocol=true", None, "true"),
        ("", None, None),
    ],
)
def test_the_variable_of_the_open_inference_protocol_counts_whatever_the_file_says(tmp_path, line, variable, expected):
    env = {} if variable is None else {"TS_OPEN_INFERENCE_PROTOCOL": variable}
    assert settings("torchserve", write(tmp_path, line), env).ts_open_inference_protocol == expected


@pytest.mark.parametrize(
    ("dialect", "key", "setting"),
    [
        ("torchserve", "default_response_timeout", "default_timeout_s"),
        ("torchserve", "default_startup_timeout", "startup_timeout_s"),
        ("mms", "default_response_timeout", "default_timeout_s"),
        ("mms", "default_response_timeout_seconds", "default_timeout_s"),
    ],
)
def test_times_that_are_too_long_are_cut_down(tmp_path, dialect, key, setting):
    file = write(tmp_path, f"{key}=300000")
    assert getattr(settings(dialect, file), setting) == 86_400
    assert "is taken for the most that is allowed, 86400 s" in config.read_config(dialect, file, {}).warnings[0]


def test_an_unknown_envelope_is_warned_about(tmp_path):
    said = config.read_config("torchserve", write(tmp_path, "service_envelope=bogus"), {})
    assert [item.value for item in said.given] == ["bogus"]
    assert "no handler will start; known are body, json, kserve, kservev2" in said.warnings[0]


def test_defaults_are_those_of_the_originals(tmp_path):
    for dialect in ("torchserve", "mms"):
        found = settings(dialect, None)
        assert (found.job_queue_size, found.max_request_size, found.startup_timeout_s) == (100, 6_553_500, 120.0)
        assert not found.native_api
    assert not settings("torchserve", None).torchserve_model_api
    assert load_settings(None, {}, {})[0].native_api


@pytest.mark.parametrize("key", sorted(config.WITHOUT_EFFECT))
def test_what_does_nothing_is_told_with_the_reason(tmp_path, key):
    if key == "model_snapshot":
        return
    said = config.read_config("torchserve", write(tmp_path, f"{key}=1"), {})
    assert said.given == ()
    if config.WITHOUT_EFFECT[key] == "it has been looked at":
        assert said.warnings == ()
        return
    (warning,) = said.warnings
    assert warning.endswith(f"{key} has no effect: {config.WITHOUT_EFFECT[key]}")
    assert "config.properties:1" in warning


def test_some_of_them_change_an_answer(tmp_path):
    assert set(config.CHANGES_ANSWERS) <= set(config.WITHOUT_EFFECT)
    lines = (
        "plugins_path=/x",
        "limit_max_image_pixels=true",
        "system_metrics_cmd=python m.py",
        "vmargs=-Xmx1g",
        "job_queue_size=",
    )
    said = config.read_config("torchserve", write(tmp_path, *lines), {})
    changing = [key.item.name for key in said.passed_over if key.changes_answers]
    assert changing == ["plugins_path", "system_metrics_cmd"]
    assert [item.name for item in said.empty] == ["job_queue_size"]


def test_an_unknown_key_is_told():
    assert config.read_config("mms", None, {"MMS_NONSENSE": "1"}).warnings == ("MMS_NONSENSE is not a setting of mms",)


def test_the_environment_counts_where_the_file_lets_it(tmp_path):
    env = {"TS_JOB_QUEUE_SIZE": "7", "TS_ALLOWED_URLS": "https://a/.*"}
    assert settings("torchserve", write(tmp_path, "job_queue_size=2"), env).job_queue_size == 2
    both = write(tmp_path, "job_queue_size=2", "enable_envvars_config=true")
    assert settings("torchserve", both, env, job_queue_size=3).job_queue_size == 7
    assert settings("torchserve", both, env).allowed_url_regexes == ()
    urls = write(tmp_path, "enable_envvars_config=true", "use_env_allowed_urls=true")
    assert settings("torchserve", urls, env).allowed_url_regexes == ("https://a/.*",)


def test_mms_counts_its_response_timeout_in_minutes(tmp_path):
    assert settings("mms", write(tmp_path, "default_response_timeout=2")).default_timeout_s == 120.0
    assert settings("mms", write(tmp_path, "default_response_timeout_seconds=2")).default_timeout_s == 2.0
    assert settings("mms", None, {"MMS_DEFAULT_WORKERS_PER_MODEL": "3"}).default_workers_per_model == 3


def test_variables_are_filled_in(tmp_path):
    file = write(tmp_path, "model_store=$$HERE$$/store")
    assert settings("torchserve", file, {"HERE": "/x"}).model_store == "/x/store"
    with pytest.raises(InvalidRequestError, match=r"config.properties:1: Invalid Environment Variable HERE"):
        settings("torchserve", file)


def test_which_file_is_read(tmp_path):
    named = write(tmp_path, "a=1")
    logs = tmp_path / "elsewhere" / "config"
    logs.mkdir(parents=True)
    for name in ("20260101000000000-startup.cfg", "20260102000000000-shutdown.cfg"):
        (logs / name).write_text("")
    env = {"LOG_LOCATION": str(logs.parent)}
    assert config.find_config("torchserve", None, {}, tmp_path, snapshots=True) == named
    assert config.find_config("torchserve", None, env, tmp_path, snapshots=True) == logs / "20260102000000000-shutdown.cfg"
    assert config.find_config("torchserve", None, env, tmp_path, snapshots=False) == named
    assert config.find_config("mms", None, env, tmp_path, snapshots=True) == named
    assert config.find_config("torchserve", named, env, tmp_path, snapshots=True) == named
    assert config.find_config("torchserve", None, {"TS_CONFIG_FILE": str(named)}, tmp_path, snapshots=True) == named
    assert config.find_config("torchserve", None, {}, tmp_path / "elsewhere", snapshots=True) is None
    with pytest.raises(InvalidRequestError, match="--ts-config file not found"):
        config.find_config("torchserve", tmp_path / "none", {}, tmp_path, snapshots=True)


SNAPSHOT = {
    "name": "x.cfg",
    "modelCount": 1,
    "models": {
        "noop": {
            "2.0": {"marName": "noop2.mar", "minWorkers": 0, "maxWorkers": 0},
            "1.0": {
                "defaultVersion": True,
                "marName": "noop.mar",
                "minWorkers": 2,
                "maxWorkers": 3,
                "batchSize": 4,
                "runtimeType": "",
            },
        }
    },
}


@pytest.mark.parametrize("order", [1, -1])
def test_a_snapshot_says_what_is_loaded_and_how(tmp_path, order):
    lines = ["load_models=old.mar", f"model_snapshot={json.dumps(SNAPSHOT)}"]
    found = settings("torchserve", write(tmp_path, *lines[::order]))
    assert found.load_models == ("noop:1.0=noop.mar", "noop:2.0=noop2.mar")
    said = model_defaults(found.models)
    assert (said["noop", "1.0"].min_workers, said["noop", "1.0"].batch_size, said["noop", "2.0"].max_workers) == (2, 4, 0)


@pytest.mark.parametrize("text", ["[]", "nonsense", '{"models": {"a": 1}}', '{"models": {"a": {"1": {}}}}'])
def test_a_snapshot_that_is_none_is_told(tmp_path, text):
    with pytest.raises(InvalidRequestError, match="no snapshot of TorchServe"):
        settings("torchserve", write(tmp_path, f"model_snapshot={text}"))


@pytest.mark.parametrize("text", ["[]", "nonsense", '{"a": {"1": {"minWorkers": "x"}}}'])
def test_models_that_are_none_are_told(text):
    with pytest.raises(InvalidRequestError, match="no JSON of models"):
        model_defaults(text)


def test_where_dialects_listen():
    found = doors(Settings(dialects=("torchserve",), native_api=False))
    assert [(str(door.address), sorted(door.parts)) for door in found] == [
        ("http://127.0.0.1:8080", ["inference"]),
        ("http://127.0.0.1:8081", ["management"]),
        ("http://127.0.0.1:8082", ["metrics"]),
    ]


def test_one_port_for_all_of_a_dialect():
    one = "http://127.0.0.1:9000"
    all_on_one = Settings(
        dialects=("torchserve",),
        native_api=False,
        torchserve_inference_address=one,
        torchserve_management_address=one,
        torchserve_metrics_address=one,
    )
    (door,) = doors(all_on_one)
    assert door.parts == {"inference", "management", "metrics"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Settings(dialects=("nonsense",)), "dialect: 'nonsense' is not allowed, allowed is torchserve or mms"),
        (Settings(dialects=("torchserve", "mms"), native_api=False), "8080: both torchserve and mms"),
        (Settings(dialects=("torchserve",)), "8080: both torchserve and native"),
    ],
)
def test_addresses_that_cannot_be(given, message):
    with pytest.raises(InvalidRequestError, match=message):
        doors(given)


def test_the_native_api_is_served_where_it_is_said():
    beside, _ = load_settings(None, {}, {"dialects": "mms", "port": 9000})
    assert beside.native_api
    assert not load_settings(None, {}, {"dialects": "mms"})[0].native_api


def test_defaults_are_those_of_the_first_dialect_that_is_named():
    assert config.defaults([Given("dialects", "none", "s", "s")]) == []
    assert {item.key for item in config.defaults([Given("dialects", ("mms", "torchserve"), "s", "s")])} >= {"job_queue_size"}

import re
from pathlib import Path

import msgspec
import pytest

from flowyard.platform.settings import Settings, default_state_dir, load_settings
from flowyard.schemas.errors import InvalidRequestError


def settings_file(folder: Path, text: str) -> Path:
    file = folder / "flowyard.yaml"
    file.write_text(text)
    return file


def test_defaults_are_the_struct_defaults():
    settings, warnings = load_settings(None, {"HOME": "/home/a"}, {})
    assert settings == Settings(state_dir="/home/a/.local/state/flowyard")
    assert warnings == ()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"XDG_STATE_HOME": "/var/x", "HOME": "/home/a"}, "/var/x/flowyard"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/a"}, "/home/a/.local/state/flowyard"),
        ({"XDG_STATE_HOME": "", "HOME": "/home/a"}, "/home/a/.local/state/flowyard"),
    ],
)
def test_state_dir_follows_xdg(env, expected):
    assert default_state_dir(env) == expected
    assert load_settings(None, env, {})[0].state_dir == expected


def test_state_dir_without_a_home_variable_is_absolute():
    assert Path(default_state_dir({})).is_absolute()


def test_later_sources_win(tmp_path):
    file = settings_file(tmp_path, "port: 1\nhost: file\nbatch_size: 2\nlog_level: error\n")
    env = {"FLOWYARD_PORT": "2", "FLOWYARD_HOST": "env"}
    settings, _ = load_settings(file, env, {"port": 3, "host": None})
    assert (settings.port, settings.host, settings.batch_size, settings.log_level) == (3, "env", 2, "error")


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("allow_trusted", "YES", True),
        ("allow_trusted", "1", True),
        ("allow_trusted", "off", False),
        ("allow_trusted", "0", False),
        ("allowed_paths", "/a:/b c:", ("/a", "/b c")),
        ("allowed_paths", "", ()),
        ("allowed_urls", "https://a/, s3://b", ("https://a/", "s3://b")),
        ("load", "m=/x.onnx /y", ("m=/x.onnx", "/y")),
        ("model_store", "", None),
        ("model_store", "null", "null"),
        ("default_timeout_s", "0.5", 0.5),
        ("log_format", "JSON", "json"),
        ("load_on_devices", "gpu0;cpu", "gpu0;cpu"),
        ("load_on_devices", "-1", "-1"),
    ],
)
def test_text_is_converted(key, text, expected):
    assert getattr(load_settings(None, {f"FLOWYARD_{key.upper()}": text}, {})[0], key) == expected


def test_file_values_are_taken_as_written(tmp_path):
    file = settings_file(
        tmp_path, "host: 1.10\nload: [a=/x y, b]\nallow_trusted: yes\nmodel_store:\nload_on_devices: 0\nport: '9'\n"
    )
    settings, _ = load_settings(file, {}, {})
    assert (settings.host, settings.load, settings.allow_trusted) == ("1.10", ("a=/x y", "b"), True)
    assert (settings.model_store, settings.load_on_devices, settings.port) == (None, "0", 9)


def test_flags_may_be_typed():
    flags = {"load": ["m=/a b"], "allow_trusted": True, "model_store": Path("/store"), "drain_timeout_s": 5}
    settings, _ = load_settings(None, {}, flags)
    assert (settings.load, settings.allow_trusted, settings.model_store) == (("m=/a b",), True, "/store")
    assert settings.drain_timeout_s == 5.0


def test_what_kubernetes_says_about_a_service_of_our_name_is_no_port():
    settings, warnings = load_settings(None, {"FLOWYARD_PORT": "tcp://10.0.0.1:8080"}, {})
    assert (settings.port, warnings) == (8080, ())


def test_unknown_keys_warn_with_place_and_nearest_name(tmp_path):
    file = settings_file(tmp_path, "host: x\nbatchsize: 3\n")
    settings, warnings = load_settings(file, {"FLOWYARD_PROT": "1", "FLOWYARD_ZZZ": "secret", "OTHER": "x"}, {"max_idletime": 3})
    assert settings.batch_size == 1
    assert warnings == (
        f"{file}:2: batchsize is not a setting, did you mean batch_size?",
        "FLOWYARD_PROT is not a setting, did you mean FLOWYARD_PORT?",
        "FLOWYARD_ZZZ is not a setting",
        "--max-idletime is not a setting, did you mean --max-idle-time?",
    )


@pytest.mark.parametrize(
    ("env", "flags", "message"),
    [
        ({"FLOWYARD_PORT": "http"}, {}, "FLOWYARD_PORT: 'http' is not allowed, allowed is a whole number from 0 to 65535"),
        ({"FLOWYARD_PORT": ""}, {}, "FLOWYARD_PORT: '' is not allowed"),
        ({}, {"port": 65536}, "--port: '65536' is not allowed, allowed is a whole number from 0 to 65535"),
        ({}, {"batch_size": True}, "--batch-size: 'True' is not allowed"),
        ({}, {"port": ["1", "2"]}, "--port: '1, 2' is not allowed"),
        ({"FLOWYARD_ALLOW_TRUSTED": "maybe"}, {}, "FLOWYARD_ALLOW_TRUSTED: 'maybe' is not allowed, allowed is true or false"),
        ({"FLOWYARD_LOG_LEVEL": "loud"}, {}, "allowed is one of debug, error, info, warning"),
        ({"FLOWYARD_DRAIN_TIMEOUT_S": "nan"}, {}, "allowed is a number above 0 and up to 86400"),
        ({"FLOWYARD_HOST": ""}, {}, "FLOWYARD_HOST: '' is not allowed, allowed is text that is not empty"),
    ],
)
def test_bad_values_name_source_value_and_rule(env, flags, message):
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        load_settings(None, env, flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host: x\nport: 99999\n", ":2: port: '99999' is not allowed, allowed is a whole number from 0 to 65535"),
        ("port: {a: 1}\n", ":1: port is a mapping, allowed is a whole number"),
        ("load: [[a]]\n", ":1: load is a mapping, allowed is a list of texts"),
        ("port: 1\nhost: x\nport: 2\n", ":3: port is given twice, first in line 1"),
        ("- port\n", ":1: a settings file is a mapping of settings"),
        ("? [a]\n: 1\n", ":1: a key of a settings file is the name of a setting"),
        ("host: x\nload_on_devices: *\n", ":2: not valid YAML"),
        ("host: \x01\n", ": not valid YAML"),
    ],
)
def test_bad_files_name_the_line(tmp_path, text, message):
    file = settings_file(tmp_path, text)
    with pytest.raises(InvalidRequestError, match=re.escape(f"{file}{message}")):
        load_settings(file, {}, {})


def test_missing_undecodable_and_empty_files(tmp_path):
    with pytest.raises(InvalidRequestError, match="cannot be read: No such file"):
        load_settings(tmp_path / "absent.yaml", {}, {})
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"host: \xff\n")
    with pytest.raises(InvalidRequestError, match="it is not UTF-8 text"):
        load_settings(file, {}, {})
    assert load_settings(settings_file(tmp_path, ""), {"HOME": "/h"}, {})[0].port == 8080


def test_settings_are_frozen_and_documented():
    with pytest.raises(AttributeError):
        Settings().port = 1
    for field in msgspec.structs.fields(Settings):
        assert f"    {field.name}: " in Settings.__doc__


def test_every_setting_is_in_the_documentation_and_nothing_else():
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    section = text.partition("## Settings\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(field.name for field in msgspec.structs.fields(Settings))

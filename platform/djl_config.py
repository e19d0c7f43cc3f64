"""The configuration of a DJL Serving installation: `config.properties`, `SERVING_*`, `SAGEMAKER_*` (DJL §4.2 to §4.4).

Nothing else knows about it: what it says becomes settings of flowyard, which have DJL's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from flowyard.platform.sources import Given
from flowyard.schemas.properties import read_properties

ENV_PREFIX = "SERVING_"
HOME = "MODEL_SERVER_HOME"
_LOOKED_UP = ("conf/config.properties", "config.properties")
_SUFFIXES = {".properties": True, ".conf": True, ".yaml": False, ".yml": False, ".json": False}
_PROPERTY = re.compile(r"[\w.]+\s*=")
#: Most bytes that are looked at to tell the format of a file.
_HEAD_BYTES = 1 << 16

#: Every key of a `config.properties`; `SERVING_<KEY>` overrides it.
KEYS = frozenset(
    {
        "allow_multi_status",
        "bad_request_http_code",
        "batch_size",
        "certificate_file",
        "chunked_read_timeout",
        "cluster_address",
        "cors_allowed_headers",
        "cors_allowed_methods",
        "cors_allowed_origin",
        "error_rate_any",
        "error_rate_model",
        "error_rate_server",
        "error_rate_wlm",
        "grpc_address",
        "grpc_max_connection_age",
        "grpc_max_connection_grace",
        "grpc_port",
        "inference_address",
        "io_ratio",
        "job_queue_size",
        "keystore",
        "keystore_pass",
        "keystore_type",
        "load_models",
        "load_on_devices",
        "management_address",
        "max_batch_delay",
        "max_idle_time",
        "max_request_size",
        "max_workers",
        "min_workers",
        "model_store",
        "model_url_pattern",
        "number_of_netty_threads",
        "plugin_folder",
        "private_key_file",
        "request_id_header_key",
        "reserved_memory_mb",
        "server_error_http_code",
        "throttle_error_http_code",
        "timeout_http_code",
        "use_native_io",
        "wait_model_loading",
        "web_root",
        "wlm_error_http_code",
    }
)
#: Keys that are relative to MODEL_SERVER_HOME.
_PATHS = frozenset({"certificate_file", "keystore", "model_store", "private_key_file"})
_NETTY = "it tunes Netty, which is not in use here"
_GRPC = "gRPC is not served"
_UNUSED = "DJL Serving does not use it either"
#: Settings that are understood and cannot do anything here.
WITHOUT_EFFECT = {
    "cluster_address": "this server is not part of a cluster",
    "error_rate_model": _UNUSED,
    "grpc_address": _GRPC,
    "grpc_max_connection_age": _GRPC,
    "grpc_max_connection_grace": _GRPC,
    "grpc_port": _GRPC,
    "io_ratio": _NETTY,
    "number_of_netty_threads": _NETTY,
    "plugin_folder": "Java plugins cannot be loaded",
    "timeout_http_code": _UNUSED,
    "use_native_io": _NETTY,
    "web_root": "no static files are served",
}
#: Those of them without which something is answered otherwise, or not at all, and the values with which that is not so.
CHANGES_ANSWERS: dict[str, tuple[str, ...]] = {
    "cluster_address": ("http://127.0.0.1:8888",),
    "grpc_address": (),
    "grpc_port": (),
    "plugin_folder": ("plugins",),
    "web_root": (),
}
#: Variables of DJL Serving that begin like settings and are none (DJL §4.4).
_OTHER_VARIABLES = frozenset(
    {
        "SERVING_CACHE_BATCH",
        "SERVING_CACHE_MULTITENANT",
        "SERVING_DDB_CACHE",
        "SERVING_DDB_TABLE_NAME",
        "SERVING_DOWNLOAD_DIR",
        "SERVING_FAIL_FAST",
        "SERVING_FEATURES",
        "SERVING_HEALTH_CHECK_OVERRIDE",
        "SERVING_MEMORY_CACHE_CAPACITY",
        "SERVING_OPTS",
        "SERVING_PROMETHEUS",
        "SERVING_RETRY_THRESHOLD",
    }
)
_SAGEMAKER = {
    "SAGEMAKER_MAX_REQUEST_SIZE": ("max_request_size",),
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": ("max_request_size",),
    "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": ("default_timeout_s",),
    "SAGEMAKER_STARTUP_TIMEOUT": ("startup_timeout_s",),
    "SAGEMAKER_NUM_MODEL_WORKERS": ("min_workers", "max_workers"),
}


class Variables(msgspec.Struct, frozen=True):
    """What the environment says.

    Attributes:
        settings: From `SERVING_<KEY>`; they win over everything else, flags included, as in DJL Serving.
        sagemaker: From `SAGEMAKER_*`; they win over the file.
        unknown: `SERVING_*` that are neither settings nor variables of DJL Serving's.
        without_effect: Names of variables of DJL Serving's that do nothing here.
    """

    settings: tuple[Given, ...]
    sagemaker: tuple[Given, ...]
    unknown: tuple[Given, ...]
    without_effect: tuple[str, ...]


def find_config(env: Mapping[str, str]) -> Path | None:
    """The file that DJL Serving would read: below MODEL_SERVER_HOME, where that is set and there is one."""
    home = env.get(HOME)
    return next((file for name in _LOOKED_UP if (file := Path(home) / name).is_file()), None) if home else None


def is_properties(file: Path) -> bool:
    """Whether a file of settings is one of properties rather than YAML: by its suffix, else by the first line that says anything.

    Args:
        file: The file; one that cannot be read is left to the reader of YAML, which says why.
    """
    if file.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[file.suffix.lower()]
    try:
        with file.open("rb") as opened:
            lines = opened.read(_HEAD_BYTES).decode("latin-1").splitlines()
    except OSError:
        return False
    first = next((line for raw in lines if (line := raw.strip()) and line[0] not in "#!"), "")
    return _PROPERTY.match(first) is not None


def from_properties(file: Path, env: Mapping[str, str]) -> list[Given]:
    """The entries of a `config.properties`; of a repeated key the last one counts. Settings that only flowyard has may be there.

    Raises:
        InvalidRequestError: It cannot be read.
    """
    last = {entry.key: entry for entry in read_properties(file)}
    return [_at_home(Given(_setting(key), entry.value, f"{file}:{entry.line}", key), env) for key, entry in last.items()]


def _setting(key: str) -> str:
    """`WEB_ROOT` is the one key in capitals."""
    return key.lower() if key.isupper() else key


def _at_home(item: Given, env: Mapping[str, str]) -> Given:
    """Relative paths start at MODEL_SERVER_HOME where that is set."""
    home = env.get(HOME)
    if not home or item.key not in _PATHS or not item.value:
        return item
    return msgspec.structs.replace(item, value=str(Path(home) / str(item.value)))


def from_env(env: Mapping[str, str]) -> Variables:
    """What `SERVING_*` and `SAGEMAKER_*` say."""
    names = sorted(name for name in env if name.startswith(ENV_PREFIX))
    items = [_at_home(Given(name.removeprefix(ENV_PREFIX).lower(), env[name], name, name), env) for name in names]
    idle = tuple(item.name for item in items if _is_other(item.name))
    return Variables(
        settings=tuple(item for item in items if item.key in KEYS),
        sagemaker=tuple(_from_sagemaker(env)),
        unknown=tuple(item for item in items if item.key not in KEYS and item.name not in idle),
        without_effect=idle,
    )


def _is_other(name: str) -> bool:
    return name in _OTHER_VARIABLES or name.startswith("SERVING_S3_CACHE")


def _from_sagemaker(env: Mapping[str, str]) -> Iterable[Given]:
    for name, keys in _SAGEMAKER.items():
        value = env.get(name, "").strip()
        if name.endswith("_IN_MB") and value.isdecimal():
            value = str(int(value) << 20)
        if value:
            yield from (Given(key, value, name, name) for key in keys)


def loads_all(file: Path | None, said: Mapping[str, Given]) -> bool:
    """Whether everything in the model store is loaded although nobody says so: that is how DJL Serving starts (DJL §4.2).

    Args:
        file: The file of properties, `None` where there is none.
        said: What is said, by setting.
    """
    store = said.get("model_store")
    is_djl = file is not None or (store is not None and store.name.startswith(ENV_PREFIX))
    return is_djl and store is not None and bool(store.value) and not said.keys() & {"load", "load_models"}

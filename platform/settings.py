"""One frozen struct with every setting of the server, and how it comes about: defaults < file < environment < flags."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec
import msgspec.inspect as types
from msgspec import Meta

from flowyard.platform import djl_config, error_rates, torchserve_config
from flowyard.platform.addresses import ALLOWED as ALLOWED_ADDRESSES
from flowyard.platform.addresses import Address, changed, management_default, parse_address
from flowyard.platform.sources import ENV_PREFIX, Given, Value, from_env, from_flags, from_yaml
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.models import BatchSize, DelayMs, IdleS, QueueSize, TimeoutS, Workers

Name = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Bytes = Annotated[int, Meta(ge=1, le=2**50)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]
ErrorCode = Annotated[int, Meta(ge=400, le=599)]
Host = Annotated[str, Meta(min_length=1, max_length=255)]
Milliseconds = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Connections = Annotated[int, Meta(ge=1, le=1_000_000)]
OpenFiles = Annotated[int, Meta(ge=64, le=2**20)]
AddressSpace = Annotated[int, Meta(ge=2**28, le=2**50)]
CpuS = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Percent = Annotated[int, Meta(ge=1, le=100)]
Attempts = Annotated[int, Meta(ge=1, le=10)]
Versions = Annotated[int, Meta(ge=0, le=100)]
Parallel = Annotated[int, Meta(ge=1, le=1_000)]
KeepS = Annotated[float, Meta(gt=0, le=31_536_000)]

#: What the client takes from the environment; the server passes it over.
CLIENT_VARIABLES = frozenset({"FLOWYARD_URL", "FLOWYARD_TOKEN"})
_SEPARATORS = {"allowed_paths": re.compile(":"), "allowed_url_regexes": re.compile(",")}
_SEPARATOR = re.compile(r"[,\s]+")
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def default_state_dir(env: Mapping[str, str] = os.environ) -> str:
    """Where the server keeps its state when nothing else is said.

    Args:
        env: Environment to look up `XDG_STATE_HOME` and `HOME` in.

    Returns:
        `$XDG_STATE_HOME/flowyard`, or `~/.local/state/flowyard` when the variable is absent or relative (as XDG has it).
    """
    base = env.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return str(Path(base) / "flowyard")
    home = env.get("HOME") or str(Path("~").expanduser())
    return str(Path(home) / ".local" / "state" / "flowyard")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decides. Keys of DJL Serving's `config.properties` have the names they have there (DJL §4.2).

    Attributes:
        host: Short form of the inference address: where to listen.
        port: Short form too; 0 takes any free one.
        inference_address: `http(s)://host[:port]` or `unix:/path`; `None` for `host` and `port`.
        management_address: The same for the management API; `None` for the inference address, or as `listening` says.
        model_store: Folder that relative model URLs start from, `None` for no store.
        workflow_templates: Folder with further templates of `POST /workflows`, as `NAME.json`, `NAME.yaml` or `NAME.yml`.
        load: What is loaded at the start, as `[NAME[:VERSION[:ENGINE[:DEVICES]]]=]URL`; as text the items are separated by commas
            or blanks.
        load_models: The same as DJL has it: `ALL` for all that is in the model store, `NONE`, or items as above.
        wait_model_loading: Whether requests are accepted only when all that is loaded at the start is up, and the start fails
            when something cannot be. Else what cannot be loaded stays, as `FAILED`.
        allow_multi_status: Whether `/ping` answers 207 while something is loaded.
        state_dir: Folder of the registry's database and the unpacked archives.
        history_size: Most changes of the registry that the history remembers.
        rollback_versions: Most versions of a name that stay on disk after they were unregistered or replaced, for a rollback.
        rollback_keep_s: Seconds that they stay; what is over it goes with the next change or start.
        startup_parallelism: Most models and workflows that are brought up at the same time at the start.
        watch_model_store: Whether what comes into, changes in and goes out of the model store is registered, replaced and
            unregistered.
        allowed_paths: Folders besides the model store that model URLs may lead into; as text separated by `:`.
        allowed_urls: Patterns of remote URLs that may be fetched (`archives/allowed.py`); none may when empty. As text separated
            by commas or blanks.
        allowed_url_regexes: The same as TorchServe's `allowed_urls`: regular expressions of whole URLs, separated by commas.
        fetch_connect_timeout_s: Longest wait for a connection to a remote host.
        fetch_read_timeout_s: Longest wait for the next piece of what it sends.
        fetch_total_timeout_s: Longest time for fetching one URL, tries and redirects included.
        fetch_attempts: Most tries of a fetch that fails in a way that may pass.
        allow_trusted: Whether a model may ask for `trusted`, that is for formats that can run code when they are read.
        install_requirements: Whether what the `requirements.txt` of an archive names is installed, for its workers only.
        requirements_timeout_s: Time that this may take.
        pip_args: Further arguments of pip, as `--no-index --find-links /wheels`; as text separated by commas or blanks.
        enable_model_api: Whether models and workflows may be registered and removed. Scaling and reading stay.
        insecure: Whether other machines may be served although there is no token.
        max_connections: Most connections at a time, for each address.
        keep_alive_limit_s: Time that a connection may be without a request.
        slow_reader_limit_s: Time that a client may take less than 1 KiB/s of an answer that waits for it.
        tls_handshake_limit_s: Longest time for the handshake of an https connection.
        worker_env: Names of environment variables that workers get besides the usual ones; as text separated by commas or blanks.
        worker_user: `USER` or `USER:GROUP`, names or numbers, of workers, where the server is root; `None` for the server's own.
        worker_open_files: Most files that a worker may have open.
        worker_address_space_bytes: Most memory that a worker may map; `None` for no limit. CUDA maps far more than it uses.
        worker_cpu_s: Computing time after which a worker is ended; `None` for no limit.
        max_request_size: Largest request body in bytes.
        max_held_size_bytes: Most bytes that requests without an answer may take of the server's memory, all together; `None` for
            a quarter of the memory that there is, or the largest body.
        max_archive_size_bytes: Largest archive, packed.
        max_unpacked_size_bytes: Largest archive, unpacked.
        max_archive_files: Most files and folders in one archive.
        job_queue_size: Most requests that wait for one model.
        batch_size: Most requests that are computed together.
        max_batch_delay: Longest wait for company, in milliseconds.
        max_idle_time: Seconds after which a surplus idle worker is stopped.
        min_workers: Least workers per device of a model that does not say.
        max_workers: Most workers per device of a model that does not say.
        default_timeout_s: Compute time after which a worker is taken for hung.
        startup_timeout_s: Time a worker may take to load its model.
        silent_limit_s: Time without a sign of life after which a worker is killed, whatever it computes.
        drain_timeout_s: Time that running requests get when the server stops.
        result_ttl_s: Time that the result of an asynchronous request is kept, from when it was last asked for.
        max_results: Most results of asynchronous requests that are kept, those included that are still computed.
        max_results_size_bytes: Most bytes of them.
        load_on_devices: Devices of a model that names none (DJL §1.9).
        chunked_read_timeout: Seconds that a model which answers in pieces may take for the next one.
        model_url_pattern: Regular expression of the URLs that a prediction may have loaded (DJL §2.4); `None` for none.
        request_id_header_key: Request header that the id of a request is read from.
        bad_request_http_code: Status of a prediction whose request is wrong.
        wlm_error_http_code: Status where workers are gone or not ready.
        throttle_error_http_code: Status where the queue is full.
        server_error_http_code: Status of a defect of the server.
        timeout_http_code: Without effect.
        error_rate_wlm: Errors of queues and workers, as `N[/ISO 8601 duration]`, beyond which `/ping` answers 503.
        error_rate_server: The same for answers of 5xx and 424.
        error_rate_any: The same for both.
        error_rate_model: Without effect.
        cors_allowed_origin: Origins whose pages may use the API, separated by commas, or `*`; `None` for none.
        cors_allowed_methods: Methods they may use, separated by commas.
        cors_allowed_headers: Request headers they may send, separated by commas.
        certificate_file: PEM file with the certificate of the https addresses and those it is signed with.
        private_key_file: PEM file with its key.
        keystore: PKCS #12 file with both.
        keystore_pass: Password of that file.
        keystore_type: Its format.
        reserved_memory_mb: Memory in MiB that starting workers must leave free.
        cluster_address: Without effect.
        number_of_netty_threads: Without effect.
        use_native_io: Without effect.
        io_ratio: Without effect.
        plugin_folder: Without effect.
        grpc_address: Without effect.
        grpc_port: Without effect.
        grpc_max_connection_age: Without effect.
        grpc_max_connection_grace: Without effect.
        web_root: Without effect.
        dialects: Further APIs that are served, each on addresses of its own: `torchserve`, `mms`.
        native_api: Whether the native API is served; with `dialects` it is only where an address is said for it.
        torchserve_inference_address: Where TorchServe's inference API listens.
        torchserve_management_address: Where its management API listens.
        torchserve_metrics_address: Where its metrics are.
        mms_inference_address: Where MMS's inference API listens.
        mms_management_address: Where its management API listens.
        workflow_store: Folder of TorchServe's workflows; `None` for the model store.
        torchserve_model_api: Whether TorchServe's API registers and unregisters models, where `enable_model_api` lets it.
        disable_token_authorization: Whether TorchServe's API asks for no tokens.
        token_expiration_min: Minutes that its tokens are good for.
        default_workers_per_model: Workers of a model that is registered there and does not say.
        service_envelope: How requests of handlers are unwrapped: `body`, `json`, `kserve`, `kservev2`; `None` for not at all.
            With any other name no handler starts, as in TorchServe.
        decode_input_request: Whether handlers get JSON and text decoded.
        default_service_handler: Handler of archives of TorchServe and MMS that name none; `None` for none.
        unregister_model_timeout: Seconds that the requests of a model get to finish before its removal through TorchServe's or
            MMS's API is given up with 408.
        metrics_mode: `prometheus`, or `log` for metrics in the log only, or `legacy`.
        metrics_config: The `metrics.yaml` that declares TorchServe's metrics; `None` for its own.
        model_metrics_auto_detect: Whether metrics of handlers that are not declared are told, too; `None` for where
            `metrics_config` is not given.
        disable_system_metrics: Whether TorchServe's metrics say nothing of the machine.
        metric_time_interval: Seconds between two lines about the machine.
        enable_metrics_api: Whether TorchServe's metrics have an address.
        enable_grpc_api: Whether TorchServe's gRPC services are served, where the extra `grpc` is installed.
        grpc_inference_address: Host where its inference service listens.
        grpc_inference_port: Port of it; `None` for 7070 where that is free, 0 takes a free one.
        grpc_inference_max_connection_age_ms: How long a connection to it may last; `None` for ever.
        grpc_inference_max_connection_age_grace_ms: How long its calls may go on after that; `None` for ever.
        grpc_management_address: Host where its management service listens.
        grpc_management_port: Port of it; `None` for 7071 where that is free, 0 takes a free one.
        grpc_management_max_connection_age_ms: How long a connection to it may last; `None` for ever.
        grpc_management_max_connection_age_grace_ms: How long its calls may go on after that; `None` for ever.
        enable_grpc_ssl: Whether both are encrypted, with the certificate of the https addresses.
        ts_open_inference_protocol: `true` for the Open Inference Protocol's health paths under `/v2`.
        ts_header_key_sequence_id: Header that names the sequence which a request to a stateful handler belongs to.
        ts_header_key_sequence_start: Header that says that a request is the first one of its sequence.
        ts_header_key_sequence_end: Header that says that it is the last one.
        models: How models are served that are loaded at the start, as TorchServe's JSON by name and version.
        restore: Whether what was registered in an earlier life of the server is brought back, or forgotten.
        config_snapshots: Whether snapshots of TorchServe's kind are written, into `config` in the folder of the log files.
        log_location: Folder of the log files that TorchServe and MMS write, where one of their APIs is served; `None` for none.
        metrics_location: Folder of their files of metrics; `None` for that of the logs.
        log_level: Least severe level that is logged.
        log_format: `console` for people, `json` for collectors, `auto` chooses by whether a terminal listens.
        access_log: Whether every request gets a line in the log, at `info`.
    """

    host: Name = "127.0.0.1"
    port: Port = 8080
    inference_address: str | None = None
    management_address: str | None = None
    model_store: str | None = None
    workflow_templates: str | None = None
    load: tuple[str, ...] = ()
    load_models: tuple[str, ...] = ()
    wait_model_loading: bool = True
    allow_multi_status: bool = False
    state_dir: Name = msgspec.field(default_factory=default_state_dir)
    history_size: Count = 10_000
    rollback_versions: Versions = 3
    rollback_keep_s: KeepS = 86_400.0
    startup_parallelism: Parallel = 8
    watch_model_store: bool = False
    allowed_paths: tuple[str, ...] = ()
    allowed_urls: tuple[str, ...] = ()
    allowed_url_regexes: tuple[str, ...] = ()
    fetch_connect_timeout_s: TimeoutS = 10.0
    fetch_read_timeout_s: TimeoutS = 30.0
    fetch_total_timeout_s: TimeoutS = 3600.0
    fetch_attempts: Attempts = 3
    allow_trusted: bool = False
    install_requirements: bool = False
    requirements_timeout_s: TimeoutS = 600.0
    pip_args: tuple[str, ...] = ()
    enable_model_api: bool = True
    insecure: bool = False
    max_connections: Connections = 4096
    keep_alive_limit_s: TimeoutS = 75.0
    slow_reader_limit_s: TimeoutS = 60.0
    tls_handshake_limit_s: TimeoutS = 10.0
    worker_env: tuple[str, ...] = ()
    worker_user: str | None = None
    worker_open_files: OpenFiles = 65_536
    worker_address_space_bytes: AddressSpace | None = None
    worker_cpu_s: CpuS | None = None
    max_request_size: Bytes = 67_108_864
    max_held_size_bytes: Bytes | None = None
    max_archive_size_bytes: Bytes = 2 * 2**30
    max_unpacked_size_bytes: Bytes = 8 * 2**30
    max_archive_files: Count = 100_000
    job_queue_size: QueueSize = 1000
    batch_size: BatchSize = 1
    max_batch_delay: DelayMs = 100
    max_idle_time: IdleS = 60
    min_workers: Workers | None = None
    max_workers: Workers | None = None
    default_timeout_s: TimeoutS = 120.0
    startup_timeout_s: TimeoutS = 240.0
    silent_limit_s: TimeoutS = 10.0
    drain_timeout_s: TimeoutS = 30.0
    result_ttl_s: TimeoutS = 3600.0
    max_results: Count = 10_000
    max_results_size_bytes: Bytes = 268_435_456
    load_on_devices: str = "*"
    chunked_read_timeout: TimeoutS = 120.0
    model_url_pattern: str | None = None
    request_id_header_key: str = "x-request-id"
    bad_request_http_code: ErrorCode = 400
    wlm_error_http_code: ErrorCode = 503
    throttle_error_http_code: ErrorCode = 503
    server_error_http_code: ErrorCode = 500
    timeout_http_code: ErrorCode = 400
    error_rate_wlm: str | None = None
    error_rate_server: str | None = None
    error_rate_any: str | None = None
    error_rate_model: str | None = None
    cors_allowed_origin: str | None = None
    cors_allowed_methods: str | None = None
    cors_allowed_headers: str | None = None
    certificate_file: str | None = None
    private_key_file: str | None = None
    keystore: str | None = None
    keystore_pass: str = "changeit"  # noqa: S105 - Java's well-known default, no secret
    keystore_type: Literal["PKCS12"] = "PKCS12"
    reserved_memory_mb: Number = 500
    cluster_address: Name = "http://127.0.0.1:8888"
    number_of_netty_threads: Number = 0
    use_native_io: bool = True
    io_ratio: Percent = 50
    plugin_folder: Name = "plugins"
    grpc_address: Name = "127.0.0.1"
    grpc_port: Port = 8082
    grpc_max_connection_age: Number | None = None
    grpc_max_connection_grace: Number | None = None
    web_root: Name = "public"
    dialects: tuple[str, ...] = ()
    native_api: bool = True
    torchserve_inference_address: Name = "http://127.0.0.1:8080"
    torchserve_management_address: Name = "http://127.0.0.1:8081"
    torchserve_metrics_address: Name = "http://127.0.0.1:8082"
    mms_inference_address: Name = "http://127.0.0.1:8080"
    mms_management_address: Name = "http://127.0.0.1:8081"
    workflow_store: str | None = None
    torchserve_model_api: bool = False
    disable_token_authorization: bool = False
    token_expiration_min: Annotated[float, Meta(gt=0, le=1_000_000)] = 60.0
    default_workers_per_model: Workers = 0
    service_envelope: str | None = None
    decode_input_request: bool = True
    default_service_handler: str | None = None
    unregister_model_timeout: Annotated[float, Meta(ge=0, le=31_536_000)] = 120.0
    metrics_mode: Literal["log", "prometheus", "legacy"] = "log"
    metrics_config: str | None = None
    model_metrics_auto_detect: bool | None = None
    disable_system_metrics: bool = False
    metric_time_interval: TimeoutS = 60.0
    enable_metrics_api: bool = True
    enable_grpc_api: bool = True
    grpc_inference_address: Host = "127.0.0.1"
    grpc_inference_port: Port | None = None
    grpc_inference_max_connection_age_ms: Milliseconds | None = None
    grpc_inference_max_connection_age_grace_ms: Milliseconds | None = None
    grpc_management_address: Host = "127.0.0.1"
    grpc_management_port: Port | None = None
    grpc_management_max_connection_age_ms: Milliseconds | None = None
    grpc_management_max_connection_age_grace_ms: Milliseconds | None = None
    enable_grpc_ssl: bool = False
    ts_open_inference_protocol: str | None = None
    ts_header_key_sequence_id: Annotated[str, Meta(min_length=1)] = "ts_request_sequence_id"
    ts_header_key_sequence_start: Annotated[str, Meta(min_length=1)] = "ts_request_sequence_start"
    ts_header_key_sequence_end: Annotated[str, Meta(min_length=1)] = "ts_request_sequence_end"
    models: str | None = None
    restore: bool = True
    config_snapshots: bool = True
    log_location: str | None = None
    metrics_location: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    access_log: bool = True


class Listening(msgspec.Struct, frozen=True):
    """Where the server listens; both on one address, or each on its own."""

    inference: Address
    management: Address


def listening(settings: Settings) -> Listening:
    """Where the server listens.

    The inference address is `host` and `port` where it is not said. The management address is the same, unless the inference
    address is said and can be reached from other machines: then it is http://127.0.0.1:8080, as with DJL Serving.
    """
    if settings.inference_address is None:
        inference = Address("http", settings.host, settings.port)
        default = inference
    else:
        inference = parse_address(settings.inference_address)
        default = management_default(inference)
    said = settings.management_address
    return Listening(inference, default if said is None else parse_address(said))


def load_settings(file: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> tuple[Settings, tuple[str, ...]]:
    """Puts the settings together: defaults < file < `FLOWYARD_<KEY>` in the environment < flags.

    The file is YAML, or the `config.properties` of a DJL Serving installation; one of those is looked for where no file is given.
    `SAGEMAKER_*` come after the file, `SERVING_<KEY>` after the flags.

    Args:
        file: File of settings, `None` for none. A null value in YAML leaves the setting as it was.
        env: The environment; empty text is a value (an empty list, no model store), not an absent one.
        flags: Values by setting name (`max_request_size`), text or typed; `None` is an absent flag.

    Returns:
        The settings, and one warning for each key or variable that is no setting or does nothing.

    Raises:
        InvalidRequestError: A file that cannot be read, or a bad value; the message names source, key, value and what is allowed.
    """
    file = file or djl_config.find_config(env)
    properties = file if file is not None and djl_config.is_properties(file) else None
    djl = djl_config.from_env(env)
    in_file = djl_config.from_properties(properties, env) if properties else from_yaml(file) if file else []
    given = [*in_file, *djl.sagemaker, *from_env(env), *from_flags(flags), *djl.settings]
    further = {}
    if djl_config.loads_all(properties, {item.key: item for item in given if item.key in _KINDS}):
        further["load_models"] = ("ALL",)
    warnings = (f"{name} has no effect here" for name in djl.without_effect)
    return settings_of(given, env, further, unknown=djl.unknown, warnings=warnings)


def settings_of(
    given: Iterable[Given],
    env: Mapping[str, str],
    further: Mapping[str, object] | None = None,
    *,
    unknown: Iterable[Given] = (),
    warnings: Iterable[str] = (),
) -> tuple[Settings, tuple[str, ...]]:
    """Makes settings of what several sources say.

    Args:
        given: What they say; later ones win.
        env: The environment, for defaults.
        further: Values that follow from it, by setting.
        unknown: What else they say that is no setting.
        warnings: What there is to warn of besides.

    Returns:
        The settings, and one warning for each key or variable that is no setting or does nothing.

    Raises:
        InvalidRequestError: A bad value; the message names source, key, value and what is allowed.
    """
    given = [*torchserve_config.defaults(given), *given]
    known = [item for item in given if item.key in _KINDS]
    values: dict[str, object] = {"state_dir": default_state_dir(env)}
    for item in known:
        values[item.key] = _convert(item)
    said = {item.key: item for item in known}
    values |= further or {}
    values |= _addresses(known)
    if values.get("dialects") and "native_api" not in said:
        values["native_api"] = any(key in said for key in ("host", "port", "inference_address", "management_address"))
    strange = [*(item for item in given if item.key not in _KINDS and item.name not in CLIENT_VARIABLES), *unknown]
    told = [*map(_unknown, strange), *warnings, *_idle(said)]
    return msgspec.convert(values, Settings), tuple(dict.fromkeys(told))


def _addresses(known: list[Given]) -> dict[str, str]:
    """The addresses, where a later source says another host or port than the one that names an address.

    What is later is the short form of the inference address, and of the management address where that is the same.
    """
    addresses: dict[str, Address] = {}
    for item in known:
        if item.key in ("inference_address", "management_address"):
            addresses.pop(item.key, None)
            if item.value:
                addresses[item.key] = parse_address(str(item.value))
        elif item.key in ("host", "port"):
            inference = addresses.get("inference_address")
            host, port = (str(item.value), None) if item.key == "host" else (None, msgspec.convert(_convert(item), int))
            for key, address in addresses.items():
                if address == inference:
                    addresses[key] = changed(address, host, port)
    return {key: str(address) for key, address in addresses.items()}


def _convert(item: Given) -> object:
    kind = _KINDS[item.key]
    if item.value is None:
        raise InvalidRequestError(f"{item.place} is a mapping, allowed is {_allowed(item.key)}")
    try:
        if isinstance(kind, types.VarTupleType):
            return _split(item.key, item.value)
        if item.key in _OPTIONAL and not item.value:
            return None
        if isinstance(kind, types.BoolType):
            return _BOOLS[str(item.value).strip().lower()]
        if item.key in _CHECKS:
            _CHECKS[item.key][0](str(item.value))
        number = isinstance(kind, (types.IntType, types.FloatType))
        value = item.value.strip() if number and isinstance(item.value, str) else item.value
        if isinstance(kind, types.LiteralType):
            return {str(one).lower(): one for one in kind.values}[str(value).lower()]
        return msgspec.convert(value, _HINTS[item.key], strict=not number)
    except (msgspec.ValidationError, KeyError, InvalidRequestError, re.error) as error:
        shown = ", ".join(item.value) if isinstance(item.value, tuple) else item.value
        raise InvalidRequestError(f"{item.place}: {shown!r} is not allowed, allowed is {_allowed(item.key)}") from error


def _split(key: str, value: Value) -> tuple[str, ...]:
    items: Iterable[str] = value if isinstance(value, tuple) else _SEPARATORS.get(key, _SEPARATOR).split(value)
    return tuple(item.strip() for item in items if item.strip())


def _allowed(key: str) -> str:
    if key in _CHECKS:
        return _CHECKS[key][1]
    match _KINDS.get(key):
        case None:
            return "text or a list of texts"
        case types.BoolType():
            return "true or false"
        case types.IntType() as kind:
            return f"a whole number from {kind.ge} to {kind.le}"
        case types.FloatType() as kind:
            return f"a number above {kind.gt} and up to {kind.le}" if kind.ge is None else f"a number from {kind.ge} to {kind.le}"
        case types.LiteralType() as kind:
            return "one of " + ", ".join(str(value) for value in kind.values)
        case types.VarTupleType():
            return "a list of texts"
        case _:
            return "text that is not empty"


def _unknown(item: Given) -> str:
    allowed = djl_config.KEYS if item.name.startswith(djl_config.ENV_PREFIX) else _KINDS
    near = difflib.get_close_matches(item.key, allowed, n=1)
    hint = f", did you mean {_respell(item, near[0])}?" if near else ""
    return f"{item.place} is not a setting{hint}"


def _respell(item: Given, key: str) -> str:
    if item.name.startswith("--"):
        return "--" + key.replace("_", "-")
    prefix = next((prefix for prefix in (ENV_PREFIX, djl_config.ENV_PREFIX) if item.name.startswith(prefix)), None)
    return key if prefix is None else prefix + key.upper()


def _idle(said: Mapping[str, Given]) -> list[str]:
    """A warning for each setting that is understood and does nothing."""
    idle = djl_config.WITHOUT_EFFECT
    return [f"{item.place} has no effect: {idle[key]}" for key, item in said.items() if key in idle]


def _declared() -> dict[str, types.Type]:
    info = types.type_info(Settings)
    assert isinstance(info, types.StructType)
    return {field.name: field.type for field in info.fields}


def _plain(kind: types.Type) -> types.Type:
    """The type itself, without what it may be instead of it and what is said about it."""
    if isinstance(kind, types.UnionType):
        (kind,) = (option for option in kind.types if not isinstance(option, types.NoneType))
    return kind.type if isinstance(kind, types.Metadata) else kind


_KINDS = {name: _plain(kind) for name, kind in _declared().items()}
_OPTIONAL = frozenset(name for name, kind in _declared().items() if isinstance(kind, types.UnionType))
_HINTS = get_type_hints(Settings, include_extras=True)


def _matching(pattern: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        if not re.fullmatch(pattern, text):
            raise InvalidRequestError(text)

    return check


_HEADER = (_matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"), "the name of a header")
_HEADER_VALUE = (_matching(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?"), "a list of names separated by commas, or *")
_HOST = (_matching(r"\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:.]+|[A-Za-z0-9_.-]+"), "a host name or IP address")
_RATE = (error_rates.parse_rate, error_rates.ALLOWED)
#: What a type cannot say, and the words for it.
_CHECKS: dict[str, tuple[Callable[[str], object], str]] = {
    "inference_address": (parse_address, ALLOWED_ADDRESSES),
    "management_address": (parse_address, ALLOWED_ADDRESSES),
    "torchserve_inference_address": (parse_address, ALLOWED_ADDRESSES),
    "torchserve_management_address": (parse_address, ALLOWED_ADDRESSES),
    "torchserve_metrics_address": (parse_address, ALLOWED_ADDRESSES),
    "mms_inference_address": (parse_address, ALLOWED_ADDRESSES),
    "mms_management_address": (parse_address, ALLOWED_ADDRESSES),
    "grpc_inference_address": _HOST,
    "grpc_management_address": _HOST,
    "error_rate_wlm": _RATE,
    "error_rate_server": _RATE,
    "error_rate_any": _RATE,
    "request_id_header_key": _HEADER,
    "cors_allowed_origin": _HEADER_VALUE,
    "cors_allowed_methods": _HEADER_VALUE,
    "cors_allowed_headers": _HEADER_VALUE,
    "model_url_pattern": (re.compile, "a regular expression"),
}

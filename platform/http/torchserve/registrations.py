"""What a registration of TorchServe or MMS asks for, and what becomes of it when it fails (TorchServe reference §1.2, §1.4)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import structlog

from flowyard.engines.torchserve.config import MOST_SECONDS
from flowyard.engines.torchserve.folder import DEFAULT_HANDLER
from flowyard.platform.archives.fetch import SIGNED
from flowyard.platform.archives.names import check_name
from flowyard.platform.http.torchserve.errors import StartFailedError, StartOutOfMemoryError
from flowyard.platform.http.torchserve.parameters import Parameters
from flowyard.platform.registry.precedence import INITIAL_WORKERS, RESPONSE_TIMEOUT, STARTUP_TIMEOUT
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, OutOfMemoryError
from flowyard.schemas.models import ModelSpec

log = structlog.stdlib.get_logger(__name__)

#: Spellings of runtimes, those of the early documents too, and what they are today.
TORCHSERVE_RUNTIMES = {"python": "python", "python3": "python3", "LSP": "LSP", "PYTHON": "python", "PYTHON3": "python3"}
MMS_RUNTIMES = {
    "python": "python",
    "python2": "python2",
    "python3": "python3",
    "PYTHON": "python",
    "PYTHON2": "python2",
    "PYTHON3": "python3",
}
#: What the originals take for "not said".
NOT_SAID = -1
MOST_WORKERS = 1_000
NO_LIMIT = 2**31


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants registered.

    Attributes:
        url: Where the archive is, as the caller says.
        name: Name to register under, empty for the archive's own.
        workers: Workers to start, unless the archive says how many.
        synchronous: Whether to wait for them.
        spec: How the model is to be served.
    """

    url: str
    name: str
    workers: int
    synchronous: bool
    spec: ModelSpec


def read_registration(
    given: Parameters, settings: Settings, runtimes: Mapping[str, str], *, response_timeout_unit_s: int = 1
) -> Asked:
    """Reads the parameters of `POST /models`; `model_url` and `initial_worker` are their names in the early documents.

    Args:
        given: The parameters.
        settings: The settings.
        runtimes: Runtimes that there are, by spelling.
        response_timeout_unit_s: Seconds that one of `response_timeout` is.

    Raises:
        InvalidRequestError: There is no URL, or a value that makes no sense.
    """
    url = given.text("url", "model_url")
    if url is None:
        raise InvalidRequestError("Parameter url is required.")
    name = given.text("model_name") or ""
    if name:
        check_name(name)
    said = given.integer("initial_workers", "initial_worker")
    workers = _between("initial_workers", max(0, settings.default_workers_per_model if said is None else said), 0, MOST_WORKERS)
    response_timeout = _seconds("response_timeout", given, 1, response_timeout_unit_s)
    options = {
        "handler": given.text("handler"),
        "runtime": _runtime(given, runtimes),
        INITIAL_WORKERS: str(workers),
        RESPONSE_TIMEOUT: _told(response_timeout),
        STARTUP_TIMEOUT: _told(_seconds("startup_timeout", given, 0)),
        "service_envelope": settings.service_envelope,
        "decode_input_request": None if settings.decode_input_request else "false",
        DEFAULT_HANDLER: settings.default_service_handler,
        SIGNED: "true" if given.flag(SIGNED, default=False) else None,
    }
    spec = ModelSpec(
        batch_size=(_said if runtimes is TORCHSERVE_RUNTIMES else _number)("batch_size", given, 1, 65_536),
        max_batch_delay=_number("max_batch_delay", given, 0, 3_600_000),
        options={key: value for key, value in options.items() if value},
    )
    return Asked(url=url, name=name, workers=workers, synchronous=given.flag("synchronous", default=True), spec=spec)


def _runtime(given: Parameters, runtimes: Mapping[str, str]) -> str | None:
    said = given.text("runtime")
    if said is None:
        return None
    if said not in runtimes:
        raise InvalidRequestError(f"Invalid RuntimeType value: {said}")
    return runtimes[said]


def _said(name: str, given: Parameters, low: int, high: int) -> int | None:
    """A number, `None` where it is absent or -1."""
    number = given.integer(name)
    return None if number is None or number == NOT_SAID else _between(name, number, low, high)


def _seconds(name: str, given: Parameters, low: int, unit_s: int = 1) -> int | None:
    """A time in seconds; one that is longer than any that there is, is cut down to that, with a word in the log."""
    number = _said(name, given, low, NO_LIMIT)
    if number is None:
        return None
    seconds = number * unit_s
    if seconds > MOST_SECONDS:
        log.warning("a time is cut down to the longest that is allowed", parameter=name, seconds=seconds, allowed=MOST_SECONDS)
    return min(seconds, MOST_SECONDS)


def _number(name: str, given: Parameters, low: int, high: int) -> int | None:
    """A number, `None` where it is absent."""
    number = given.integer(name)
    return None if number is None else _between(name, number, low, high)


def _between(name: str, number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise InvalidRequestError(f"Parameter {name}: {number} is not allowed; allowed is a whole number from {low} to {high}.")
    return number


def _told(number: int | None) -> str | None:
    return None if number is None else str(number)


def start_failure(message: str, error: BaseException | None) -> StartFailedError:
    """What is told when workers cannot be started: the original's words, and the reason as `detail`.

    Args:
        message: The original's words.
        error: What a worker said, `None` where it said nothing.
    """
    log.error("workers cannot be started", told=message, reason=str(error or ""))
    is_memory = isinstance(error, OutOfMemoryError)
    return StartOutOfMemoryError(message, error) if is_memory else StartFailedError(message, error)


def reason_of(error: FlowyardError) -> BaseException:
    """What a worker said, behind what is told of it."""
    return error.__cause__ or error

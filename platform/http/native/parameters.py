"""Query parameters and JSON bodies of the management API: read strictly, refused by name."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import msgspec.inspect as types
import structlog
from msgspec import Meta

from flowyard.platform.workers.adapters import MAX_ADAPTERS
from flowyard.schemas.adapters import AdapterSpec
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.models import (
    BatchSize,
    DelayMs,
    Envelope,
    IdleS,
    ModelSpec,
    QueueSize,
    TimeoutS,
    Workers,
    handler_options,
)

P = TypeVar("P", bound=msgspec.Struct)

log = structlog.stdlib.get_logger(__name__)

MAX_NUMBER = 2**31 - 1
MAX_LIMIT = 100
#: Parameters of one call; the most that a call knows are some thirty.
MAX_PARAMETERS = 200
#: Characters of a name that is compared with those that there are.
_LONGEST_NAME = 64
Sha256 = Annotated[str, Meta(pattern="^[0-9A-Fa-f]{64}$", description="Digest that the file at `url`, or the upload, must have.")]
Handler = Annotated[str, Meta(description="Handler of an archive of TorchServe or MMS, instead of the one it names.")]
Decode = Annotated[bool, Meta(description="Whether such a handler gets JSON and text decoded.")]
StartupS = Annotated[float, Meta(gt=0, le=86_400, description="Seconds that loading such an archive may take.")]
Limit = Annotated[int, Meta(ge=0, le=MAX_NUMBER, description="Most names on a page; a larger number than 100 is 100.")]
Token = Annotated[int, Meta(ge=0, le=MAX_NUMBER, description="Where the page starts: `nextPageToken` of the page before.")]


def check_replace(*, replace: bool, synchronous: bool) -> None:
    """What is to be replaced answers until the new one is up, so somebody has to wait for that.

    Raises:
        InvalidRequestError: Nobody does.
    """
    if replace and not synchronous:
        raise InvalidRequestError("Parameter replace waits until the new one is up; it does not go with synchronous=false.")


class RegisterModel(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Parameters of `POST /models` (DJL §1.3; those after `synchronous` are ours)."""

    url: str = ""
    model_name: str = ""
    model_version: str = ""
    engine: str | None = None
    device: str | None = None
    job_queue_size: QueueSize | None = None
    batch_size: BatchSize | None = None
    max_batch_delay: DelayMs | None = None
    max_idle_time: IdleS | None = None
    min_worker: Workers | None = None
    max_worker: Workers | None = None
    synchronous: bool = True
    timeout: TimeoutS | None = None
    batching: Literal["eager", "fill"] | None = None
    trusted: bool = False
    sha256: Sha256 | None = None
    replace: bool = False
    handler: Handler | None = None
    service_envelope: Envelope | None = None
    decode_input_request: Decode | None = None
    startup_timeout: StartupS | None = None

    def spec(self) -> ModelSpec:
        """What is said about the model."""
        given = {name: getattr(self, name) for name in ModelSpec.__struct_fields__ if name in self.__struct_fields__}
        return msgspec.convert(given | {"url": "", "options": handler_options(self)}, ModelSpec)


class RegisterWorkflow(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Parameters of `POST /workflows`: they apply to each model of the workflow that does not say otherwise.

    With `template`, any other name is a parameter of the template, and so is `url`.
    """

    url: str = ""
    template: str = ""
    engine: str | None = None
    device: str | None = None
    min_worker: Workers | None = None
    max_worker: Workers | None = None
    synchronous: bool = True
    sha256: Sha256 | None = None
    replace: bool = False

    def spec(self) -> ModelSpec:
        """What is said about every model."""
        return ModelSpec(engine=self.engine, device=self.device, min_worker=self.min_worker, max_worker=self.max_worker)


class Scale(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Parameters of `PUT /models/{name}` and `PUT /workflows/{name}` (DJL §1.7; the last three are ours).

    `weights` and `shadow` stand alone; `model` is the one model of a workflow that is meant.
    """

    min_worker: Workers | None = None
    max_worker: Workers | None = None
    device: str | None = None
    synchronous: bool = True
    model: str = ""
    weights: str = ""
    shadow: bool | None = None

    def check_alone(self, name: str) -> None:
        """Refuses a parameter that comes with others.

        Raises:
            InvalidRequestError: There are others.
        """
        others = [field for field in self.__struct_fields__ if field != name and getattr(self, field) != getattr(Scale(), field)]
        if others:
            raise InvalidRequestError(f"Parameter {name} stands alone; {', '.join(others)} needs a call of its own.")


class AdapterOptions(msgspec.Struct, kw_only=True, frozen=True):
    """Parameters of a change of an adapter; others are handed to its handler (DJL §1.11)."""

    name: Annotated[str, Meta(description="What requests call it; required to register it.")] = ""
    src: Annotated[str, Meta(description="Where it is; required to register it.")] = ""
    preload: bool = True
    pin: bool = False


class AdapterSet(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """All adapters that a model of a version is to have; `model` is the one of a workflow that is meant."""

    adapters: Annotated[tuple[AdapterSpec, ...], Meta(max_length=MAX_ADAPTERS)]
    model: str = ""


class Rollback(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Parameters of a rollback; without a version it goes to the one before."""

    version: str = ""


class Page(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Parameters of a list."""

    limit: Limit = MAX_LIMIT
    next_page_token: Token = 0


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of a call that takes none."""


def read(kind: type[P], given: dict[str, Any], *, text: bool) -> P:
    """Reads parameters.

    Args:
        kind: What is allowed.
        given: Name -> value. An empty text counts as absent (DJL §1.1).
        text: Whether the values are text to be converted, as in a query.

    Returns:
        The parameters.

    Raises:
        InvalidRequestError: An unknown name or a value that is not allowed; the message names it and what is allowed. In JSON,
            names that are nowhere near a known one are ignored, as DJL does (§1.3).
    """
    if len(given) > MAX_PARAMETERS:
        raise InvalidRequestError(f"There are {len(given)} parameters; no call takes more than {MAX_PARAMETERS}.")
    present = {name: value for name, value in given.items() if value not in ("", None)}
    unknown = [name for name in present if name not in kind.__struct_fields__]
    for name in unknown:
        if text or _near(name, kind):
            raise InvalidRequestError(f"Unknown parameter: {name[:100]}.{_instead(name, kind)}")
        log.warning("ignored an unknown parameter", parameter=name[:100])
        del present[name]
    if text:
        present = {name: _boolean(value) for name, value in present.items()}
    for name, value in present.items():
        _check(kind, name, value, strict=not text)
    return msgspec.convert(present, kind, strict=not text)


def _boolean(value: Any) -> Any:
    """DJL reads booleans in any case."""
    return value.lower() if isinstance(value, str) and value.lower() in ("true", "false") else value


def _check(kind: type[msgspec.Struct], name: str, value: Any, *, strict: bool) -> None:
    """Converts one parameter alone, so that the message can name it."""
    try:
        msgspec.convert({name: value}, kind, strict=strict)
    except msgspec.ValidationError:
        raise InvalidRequestError(
            f"Parameter {name}: {str(value)[:100]!r} is not allowed; allowed is {allowed(kind, name)}."
        ) from None


def allowed(kind: type[msgspec.Struct], name: str) -> str:
    """What a parameter may be, in words."""
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    (declared,) = (field.type for field in info.fields if field.name == name)
    options = declared.types if isinstance(declared, types.UnionType) else (declared,)
    plain = [option.type if isinstance(option, types.Metadata) else option for option in options]
    match next(option for option in plain if not isinstance(option, types.NoneType)):
        case types.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case types.FloatType(le=high):
            return f"a number above 0 and up to {high:g}"
        case types.BoolType():
            return "true or false"
        case types.LiteralType(values=values):
            return " or ".join(str(value) for value in values)
        case types.StrType(pattern=str(pattern)):
            return f"text like {pattern}"
        case _:
            return "text"


def _near(name: str, kind: type[msgspec.Struct]) -> list[str]:
    return difflib.get_close_matches(name[:_LONGEST_NAME].lower(), kind.__struct_fields__, n=1)


def _instead(name: str, kind: type[msgspec.Struct]) -> str:
    known = kind.__struct_fields__
    near = _near(name, kind)
    if near:
        return f" Did you mean {near[0]}?"
    return f" Known are {', '.join(known)}." if known else " This call takes none."

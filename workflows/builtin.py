"""The built-in functions. They run inside the server: bounded, and total but for inputs of the wrong type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from flowyard.schemas import ensemble
from flowyard.schemas.codecs.content import message_of
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Value
from flowyard.workflows import paths
from flowyard.workflows.expressions import Expression, Literal
from flowyard.workflows.plan import BuiltIn
from flowyard.workflows.problems import Place

ANY = 1_000_000
LIMIT_ITEMS = 10_000
#: The content of a message that says which adapter it is for.
ADAPTER = "adapter"
#: Fewest and most arguments of each.
ARITY: dict[str, tuple[int, int]] = {
    "id": (1, 1),
    "map": (2, 2),
    "ensemble": (1, ANY),
    "merge": (1, ANY),
    "pick": (2, 2),
    "switch": (2, 2),
    "batch": (1, ANY),
    "unbatch": (1, 1),
    "functionsApply": (2, 2),
    "adapter": (2, 2),
}


class BadOption(ValueError):  # noqa: N818
    """A literal argument that the built-in does not take.

    Attributes:
        at: Where it stands.
        name: The name at fault, where it is one of `known`.
        known: The names that there are.
    """

    def __init__(self, message: str, at: Place | None = None, name: str = "", known: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.at = at
        self.name = name
        self.known = known


def bind(name: str, args: tuple[Expression, ...]) -> tuple[BuiltIn, tuple[Expression, ...]]:
    """Puts literal options into a built-in.

    Args:
        name: The built-in.
        args: Its arguments as written; their number has been checked.

    Returns:
        The function, and the arguments that are left.

    Raises:
        BadOption: An option is none.
    """
    if name == "pick":
        return _bind_pick(args)
    if name == "ensemble":
        return _bind_ensemble(args)
    return FUNCTIONS[name], args


def mapping_of(names: tuple[str, ...]) -> BuiltIn:
    """A function that makes a mapping of its arguments.

    Args:
        names: The key of each.

    Returns:
        The function.
    """
    return partial(_mapping, names)


class Adapted:
    """A function that tells a model which adapter to use: its input gets one more content (DJL §3.2).

    Only handlers have adapters, and they take messages: what is none becomes one.

    Args:
        name: The adapter.
    """

    def __init__(self, name: str) -> None:
        self._content = (ADAPTER, name.encode())

    def __call__(self, args: list[Value]) -> Value:
        """Marks a value."""
        return self.mark(Payload.of(args[0])).message()

    def mark(self, payload: Payload) -> Payload:
        """Marks a request, or what a node has given; an adapter that it named itself is forgotten."""
        message = payload.for_handler("djl") or message_of(payload.value())
        contents = [content for content in message.contents if content[0] != ADAPTER]
        return Payload.of(Message(message.code, message.reason, message.properties, (*contents, self._content)))


def _bind_pick(args: tuple[Expression, ...]) -> tuple[BuiltIn, tuple[Expression, ...]]:
    subject, path = args
    if not isinstance(path, Literal) or not isinstance(path.value, str):
        raise BadOption('the path must be a literal: {value: "path"}', path)
    try:
        return partial(_pick, paths.compile_path(path.value)), (subject,)
    except paths.PathError as error:
        raise BadOption(f'JMESPath "{path.value}": {error}', path) from None


def _bind_ensemble(args: tuple[Expression, ...]) -> tuple[BuiltIn, tuple[Expression, ...]]:
    last = args[-1]
    if len(args) == 1 or not isinstance(last, Literal) or not isinstance(last.value, (str, dict)):
        return partial(ensemble.combine, "mean", None), args
    members = args[:-1]
    method, weights = _ensemble_options(last, len(members))
    return partial(ensemble.combine, method, weights), members


def _ensemble_options(option: Literal, members: int) -> tuple[str, list[float] | None]:
    given: dict[str, Any] = {"method": option.value} if isinstance(option.value, str) else option.value
    for key in given:
        if key not in ("method", "weights"):
            message = f"unknown option `{key}`; the options are `method` and `weights`"
            raise BadOption(message, option, key, ("method", "weights"))
    method, weights = given.get("method", "mean"), given.get("weights")
    if method not in ("mean", "vote"):
        raise BadOption("`method` must be `mean` or `vote`", option, str(method), ("mean", "vote"))
    if weights is None:
        return method, None
    if not isinstance(weights, list) or not all(_is_weight(weight) for weight in weights) or not sum(weights) > 0:
        raise BadOption("`weights` must be numbers from 0 up, not all 0", option)
    if members > 1 and len(weights) != members:
        raise BadOption(f"{len(weights)} weights for {members} members", option)
    return method, [float(weight) for weight in weights]


def _is_weight(weight: object) -> bool:
    return isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < float("inf")


def _pick(path: paths.Path, args: list[Value]) -> Value:
    return paths.search(path, args[0])


def _mapping(names: tuple[str, ...], args: list[Value]) -> Value:
    return dict(zip(names, args, strict=True))


def _id(args: list[Value]) -> Value:
    return args[0]


def _merge(args: list[Value]) -> Value:
    if all(isinstance(arg, dict) for arg in args):
        return {key: value for arg in args for key, value in arg.items()}
    if all(isinstance(arg, list) for arg in args):
        return [item for arg in args for item in arg]
    raise InvalidInputError(f"merge takes mappings only or lists only, not {_kinds(args)}")


def _batch(args: list[Value]) -> Value:
    members = args[0] if len(args) == 1 and isinstance(args[0], list) else args
    if not members or len(members) > LIMIT_ITEMS:
        raise InvalidInputError(f"batch takes 1 to {LIMIT_ITEMS} tensors, not {len(members)}")
    arrays = [as_array(member, "batch") for member in members]
    if len({array.shape for array in arrays}) > 1:
        raise InvalidInputError(f"batch takes tensors of one shape, not {_shapes(arrays)}")
    return np.stack(arrays)


def _unbatch(args: list[Value]) -> Value:
    if isinstance(args[0], list):
        return args[0]
    if not isinstance(args[0], np.ndarray) or args[0].ndim == 0:
        raise InvalidInputError(f"unbatch takes a tensor with an axis to take apart, not {_kinds(args)}")
    if len(args[0]) > LIMIT_ITEMS:
        raise InvalidInputError(f"unbatch makes at most {LIMIT_ITEMS} items, not {len(args[0])}")
    return list(args[0]) if args[0].ndim > 1 else args[0].tolist()


def as_array(value: Value, what: str) -> np.ndarray[Any, Any]:
    """A tensor, a number or a nested list of numbers as an array.

    Args:
        value: The value.
        what: Who asks, for the message.

    Returns:
        The array.

    Raises:
        InvalidInputError: It is none of these.
    """
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise InvalidInputError(f"{what} takes tensors or even lists of numbers") from None
    if array.dtype.kind not in "biufc" and not isinstance(value, np.ndarray):
        raise InvalidInputError(f"{what} takes tensors or even lists of numbers, not {_kinds([value])}")
    return array


def _kinds(values: list[Value]) -> str:
    return ", ".join(dict.fromkeys(type(value).__name__ for value in values))


def _shapes(arrays: list[np.ndarray[Any, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(list(array.shape)) for array in arrays))


#: The built-ins that are functions of values alone; `map`, `switch`, `functionsApply` and `adapter` are steps of their own.
FUNCTIONS: dict[str, Callable[[list[Value]], Value]] = {
    "id": _id,
    "merge": _merge,
    "ensemble": partial(ensemble.combine, "mean", None),
    "batch": _batch,
    "unbatch": _unbatch,
}

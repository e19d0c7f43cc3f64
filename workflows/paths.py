"""JMESPath, compiled at load. Arrays count as lists wherever an expression looks inside them."""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import jmespath
import numpy as np
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

from flowyard.schemas.errors import InvalidInputError

Path: TypeAlias = dict[str, Any]

LIMIT_CHARACTERS = 4_096
#: Expressions that look at the elements of what their parts yield.
_LOOKING = frozenset(
    {
        "projection",
        "filter_projection",
        "value_projection",
        "flatten",
        "comparator",
        "function_expression",
        "or_expression",
        "and_expression",
        "not_expression",
    }
)


class PathError(ValueError):
    """A JMESPath expression that does not parse; the message says why."""


def compile_path(text: str) -> Path:
    """Parses a JMESPath expression.

    Args:
        text: The expression.

    Returns:
        What `search` takes.

    Raises:
        PathError: It does not parse.
    """
    if len(text) > LIMIT_CHARACTERS:
        raise PathError(f"longer than {LIMIT_CHARACTERS} characters")
    try:
        with warnings.catch_warnings():
            # A literal that is no JSON counts as a string; the library says that this is deprecated.
            warnings.simplefilter("ignore")
            return _prepared(jmespath.compile(text).parsed)
    except PathError:
        raise
    except (jmespath.exceptions.JMESPathError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].removesuffix(":").removesuffix(", for expression")
        raise PathError(reason) from None
    except RecursionError:
        raise PathError("nested too deeply") from None


def _prepared(node: Path) -> Path:
    """Marks the places where an array has to become a list, and checks what the parser leaves to the evaluation."""
    if node["type"] == "function_expression":
        _check_function(node["value"], len(node["children"]))
    children = [_prepared(child) if isinstance(child, dict) else child for child in node["children"]]
    if node["type"] in _LOOKING:
        children = [{"type": "listed", "children": [child]} for child in children]
    return {**node, "children": children}


def _check_function(name: str, count: int) -> None:
    function = Functions.FUNCTION_TABLE.get(name)
    if function is None:
        raise PathError(f"unknown function {name}()")
    signature = function["signature"]
    variadic = bool(signature) and signature[-1].get("variadic", False)
    if count < len(signature) or (count > len(signature) and not variadic):
        raise PathError(f"{name}() takes {'at least ' * variadic}{len(signature)} argument(s), not {count}")


def search(path: Path, value: Any) -> Any:
    """Looks up a path.

    Args:
        path: From `compile_path`.
        value: What to look into.

    Returns:
        What is there; `None` when nothing is.

    Raises:
        InvalidInputError: A function of the expression does not take what it was given.
    """
    try:
        return _interpreter.visit(path, value)
    except (jmespath.exceptions.JMESPathError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"JMESPath: {error}") from None


def is_true(value: Any) -> bool:
    """What JMESPath holds true: everything but null, false, and empty strings, lists and mappings."""
    return not (value is None or value is False or (isinstance(value, (str, list, dict)) and not value))


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


class _Interpreter(TreeInterpreter):  # type: ignore[misc]
    """Adds arrays to what JMESPath knows."""

    def visit_listed(self, node: Path, value: Any) -> Any:
        return _listed(self.visit(node["children"][0], _listed(value)))

    def visit_index(self, node: Path, value: Any) -> Any:
        return super().visit_index(node, _listed(value))

    def visit_slice(self, node: Path, value: Any) -> Any:
        return super().visit_slice(node, _listed(value))


_interpreter = _Interpreter()


def compile_condition(text: str) -> tuple[Path, tuple[str, ...]]:
    """Parses an expression whose outermost names are nodes of the workflow.

    Args:
        text: The expression.

    Returns:
        The path, to be searched in a mapping of the names that follow. `in.headers.x` and `in.query.x` are names of their own.

    Raises:
        PathError: It does not parse, or uses `@` where no node has been named.
    """
    names: dict[str, None] = {}
    path = _with_request_names(compile_path(text))
    _collect(path, names)
    return path, tuple(names)


def _with_request_names(node: Path) -> Path:
    """Turns `in.headers.x` into one name."""
    dotted = _dotted(node)
    if len(dotted) == 3 and dotted[0] == "in" and dotted[1] in ("headers", "query"):
        return {"type": "field", "children": [], "value": ".".join(dotted)}
    children = [_with_request_names(child) if isinstance(child, dict) else child for child in node["children"]]
    return {**node, "children": children}


def _dotted(node: Path) -> tuple[str, ...]:
    if node["type"] == "field":
        return (node["value"],)
    if node["type"] != "subexpression":
        return ()
    parts = [_dotted(child) for child in node["children"]]
    return tuple(name for part in parts for name in part) if all(parts) else ()


#: Expressions of which only the first part sees the outermost names; the others see what that part yields.
_NARROWING = frozenset({"subexpression", "index_expression", "pipe", "projection", "filter_projection", "value_projection"})


def _collect(node: Path, names: dict[str, None]) -> None:
    if node["type"] == "field":
        names[node["value"]] = None
    elif node["type"] == "current":
        raise PathError("`@` needs the name of a node before it")
    elif node["type"] not in ("expref", "literal", "index", "slice"):
        seen = node["children"][:1] if node["type"] in _NARROWING else node["children"]
        for child in seen:
            _collect(child, names)

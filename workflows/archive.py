"""Checks a workflow against the files of its archive. Python sources are read as text, never imported."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

from flowyard.schemas.models import ModelSpec
from flowyard.workflows.builtin import ANY
from flowyard.workflows.definition import At, Definition
from flowyard.workflows.lowering import Use, describe_arity
from flowyard.workflows.problems import Problems
from flowyard.workflows.references import SCHEMES, split_callable

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class ArchiveView(Protocol):
    """The files of an archive; paths are relative to the workflow file, with forward slashes."""

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder of that path."""

    def read(self, path: str) -> bytes | None:
        """The content of a file, `None` when there is none."""

    def names(self) -> Iterable[str]:
        """Paths of all files."""


def check_files(definition: Definition, archive: ArchiveView, problems: Problems) -> None:
    """Notes models whose files are not in the archive. URLs with a scheme and absolute paths are left to the server.

    Args:
        definition: The workflow.
        archive: Its files.
        problems: Receives what is wrong.
    """
    modules = _Modules(archive, problems)
    for name, spec in definition.models.items():
        place = definition.model_places.get(name, At(0, 0))
        for target in (spec.url, spec.options.get("class", "")):
            if split_callable(target) is not None:
                modules.find(target, f'model "{name}"', place)
        # The relative URLs of a `.war` lead to the server's model store.
        if definition.spelling == "native" and _is_local(spec) and not _exists(spec.url, archive):
            fix = problems.nearest(_normal(spec.url), archive.names())
            problems.error(f'model "{name}": no file "{spec.url}" in the archive', place, name=spec.url, fix=fix)


def _is_local(spec: ModelSpec) -> bool:
    scheme = spec.url.split(":", 1)[0] if ":" in spec.url else ""
    return (
        bool(spec.url)
        and split_callable(spec.url) is None
        and not spec.url.startswith("/")
        and scheme not in SCHEMES
        and "://" not in spec.url
    )


def _exists(url: str, archive: ArchiveView) -> bool:
    """Whether the archive has the path; one that leaves it is not even looked for."""
    return ".." not in url.split("/") and archive.exists(_normal(url))


def _normal(url: str) -> str:
    parts = [part for part in url.split("/") if part not in ("", ".")]
    return "/".join(parts) or "."


def check_functions(definition: Definition, uses: Iterable[Use], archive: ArchiveView, problems: Problems) -> None:
    """Notes functions that are not in the archive, and calls that their signature does not take.

    Args:
        definition: The workflow.
        uses: Its calls.
        archive: Its files.
        problems: Receives what is wrong.
    """
    modules = _Modules(archive, problems)
    found = {
        name: modules.find(target, f'function "{name}"', definition.function_places[name])
        for name, target in definition.functions.items()
        if split_callable(target) is not None
    }
    for use in uses:
        function = found.get(use.callee.name) if use.callee.kind == "function" else None
        if function is not None and not function.decorator_list:
            check = _check_arity if definition.spelling == "native" else _check_rows
            check(use, function, problems)


def _check_rows(use: Use, function: _Function, problems: Problems) -> None:
    """A function of TorchServe is called as `f(data, context)`."""
    args = function.args
    named = len(args.posonlyargs) + len(args.args)
    if named - len(args.defaults) > 2 or (named < 2 and args.vararg is None):
        message = f'function "{use.callee.name}" is called with `data` and `context`, and takes {named}'
        problems.error(message, use, name=use.callee.name)


def _check_arity(use: Use, function: _Function, problems: Problems) -> None:
    least, most = _arity(function)
    if not least <= use.arguments <= most:
        message = f'function "{use.callee.name}" takes {describe_arity(least, most)}, not {use.arguments}'
        problems.error(message, use, name=use.callee.name)


def _arity(function: _Function) -> tuple[int, int]:
    """Fewest and most arguments; `context` is given by name and does not count."""
    args = function.args
    named = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    required = [name for name in named[: len(named) - len(args.defaults)] if name != "context"]
    most = ANY if args.vararg is not None else sum(name != "context" for name in named)
    return len(required), most


class _Modules:
    """Finds callables in the sources of an archive."""

    def __init__(self, archive: ArchiveView, problems: Problems) -> None:
        self._archive = archive
        self._problems = problems

    def find(self, target: str, what: str, at: At) -> _Function | None:
        """The function that `module:callable` names, if it is a plain one; a problem when there is nothing of that name."""
        split = split_callable(target)
        assert split is not None
        module, name = split
        read = self._read(module, what, at)
        found = self._names(*read, what, at) if read is not None else None
        if found is None or read is None:
            return None
        if name.split(".")[0] not in found and "*" not in found:
            fix = self._problems.nearest(name, found)
            self._problems.error(f'{what}: no "{name}" in {read[0]}', at, name=name, fix=fix)
        definition = found.get(name)
        return definition if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)) else None

    def _read(self, module: str, what: str, at: At) -> tuple[str, bytes] | None:
        base = module.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            text = self._archive.read(path)
            if text is not None:
                return path, text
        fix = self._problems.nearest(f"{base}.py", [name for name in self._archive.names() if name.endswith(".py")])
        self._problems.error(f'{what}: no module "{module}" in the archive', at, name=module, fix=fix)
        return None

    def _names(self, path: str, text: bytes, what: str, at: At) -> dict[str, ast.AST] | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return dict(_top_level(ast.parse(text).body))
        except SyntaxError as error:
            place = At(error.lineno or 0, error.offset or 0)
            self._problems.error(f"{what}: {error.msg}", place, name=path, file=path)
        except (ValueError, RecursionError, MemoryError) as error:
            self._problems.error(f"{what}: {path} cannot be read: {error}", at, name=path)
        return None


def _top_level(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Every name that a module defines, also under `if` and `try`; `*` for what a star import may bring."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name, statement
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name.split(".")[0], statement) for alias in statement.names)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
            yield from ((name.id, statement) for name in names)
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)

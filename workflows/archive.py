"""Checks a workflow against the files of its archive. Python sources are read as text, never imported."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import decode_source
from pathlib import PurePosixPath
from typing import Protocol, TypeAlias

import msgspec

from flowyard.schemas.errors import TooLargeError
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.builtin import ANY
from flowyard.workflows.definition import Definition
from flowyard.workflows.lowering import Use, describe_arity
from flowyard.workflows.problems import Place, Problems
from flowyard.workflows.references import SCHEMES, split_callable
from flowyard.workflows.source import At

LIMIT_SOURCE_BYTES = 4 << 20
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
#: Expressions whose value nobody can call.
_DATA = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.JoinedStr, ast.ListComp, ast.DictComp, ast.SetComp)


class ArchiveView(Protocol):
    """The files of an archive; paths are relative to the workflow file, with forward slashes."""

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder of that path."""

    def read(self, path: str) -> bytes | None:
        """The content of a file, `None` when there is none."""

    def names(self) -> Iterable[str]:
        """Paths of all files."""


class Files(msgspec.Struct, frozen=True):
    """Where the files of a workflow are looked for.

    Attributes:
        archive: The files next to the workflow file.
        store: The server's model store, where a `.mar` may be too; `None` without one.
        is_store_known: Whether `store` is the one that the workflow will be served from: then a `.mar` that is in neither place
            is an error, else a warning.
    """

    archive: ArchiveView
    store: ArchiveView | None = None
    is_store_known: bool = False


def check_archive(definition: Definition, uses: Iterable[Use], files: Files, problems: Problems) -> None:
    """Notes models and functions that are not there, and calls that the signature of a function does not take.

    Args:
        definition: The workflow.
        uses: Its calls.
        files: Its files.
        problems: Receives what is wrong.
    """
    modules = _Modules(files.archive, problems)
    _check_models(definition, files, modules, problems)
    _check_functions(definition, uses, modules, problems)


def _check_models(definition: Definition, files: Files, modules: _Modules, problems: Problems) -> None:
    """Notes models whose files are not there. URLs with a scheme and absolute paths are left to the server."""
    for name, spec in definition.models.items():
        place = definition.model_place(name, "url")
        for target, at in ((spec.url, place), (spec.options.get("class", ""), definition.model_place(name, "options"))):
            if split_callable(target) is not None:
                modules.find(target, f'model "{name}"', at)
        if not _is_local(spec) or _exists(spec.url, files.archive):
            continue
        # All relative URLs of a `.war` lead to the model store.
        if definition.spelling == "torchserve" or spec.url.endswith(".mar"):
            _check_store(name, spec.url, place, files, problems)
        else:
            nearest = problems.nearest(_normal(spec.url), files.archive.names())
            problems.error(f'model "{name}": no file "{spec.url}" in the archive', place, name=spec.url, nearest=nearest)


def _check_store(name: str, url: str, place: Place, files: Files, problems: Problems) -> None:
    if files.store is not None and _exists(url, files.store):
        return
    where = "neither in the archive nor in the model store" if files.store is not None else "not in the archive"
    message = f'model "{name}": "{url}" is {where}'
    if files.is_store_known:
        known = [*files.archive.names(), *(files.store.names() if files.store is not None else ())]
        problems.error(message, place, name=url, nearest=problems.nearest(_normal(url), known))
    else:
        fix = "" if files.store is not None else "--model-store says where else it may be"
        problems.warning(message, place, name=url, fix=fix)


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


def _check_functions(definition: Definition, uses: Iterable[Use], modules: _Modules, problems: Problems) -> None:
    """Notes functions that are not in the archive, and calls that their signature does not take."""
    found = {
        name: modules.find(target, f'function "{name}"', definition.function_places[name])
        for name, target in definition.functions.items()
        if split_callable(target) is not None
    }
    for use in uses:
        function = found.get(use.callee.name) if use.callee.kind == "function" else None
        if function is not None and not getattr(function, "decorator_list", ()):
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
    given = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    for name in [arg.arg for arg, default in given if default is None and arg.arg != "context"]:
        message = f'function "{use.callee.name}" needs `{name}` by name, and is called with arguments in order'
        problems.error(message, use, name=name)
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
        #: What each file defines, `None` for one that cannot be read.
        self._names: dict[str, dict[str, ast.AST] | None] = {}

    def find(self, target: str, what: str, at: Place) -> _Function | None:
        """The function that `module:callable` names, if it is a plain one; a problem when there is nothing of that name."""
        split = split_callable(target)
        assert split is not None
        module, name = split
        path = self._path(module, what, at)
        found = self._names_in(path, at) if path else None
        if found is None:
            return None
        if name.split(".")[0] not in found and not {"*", "__getattr__"} & found.keys():
            nearest = self._problems.nearest(name, found)
            self._problems.error(f'{what}: no "{name}" in {path}', at, name=name, nearest=nearest)
        definition = found.get(name)
        if isinstance(definition, _DATA):
            self._problems.error(f'{what}: "{name}" in {path} is nothing that can be called', at, name=name)
        return definition if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) else None

    def _path(self, module: str, what: str, at: Place) -> str:
        """The file of a module; empty with a problem noted where there is none."""
        base = module.removesuffix(".py").replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if self._archive.exists(path):
                return path
        nearest = self._problems.nearest(f"{base}.py", [name for name in self._archive.names() if name.endswith(".py")])
        self._problems.error(f'{what}: no module "{module}" in the archive', at, name=module, nearest=nearest)
        return ""

    def _names_in(self, path: str, at: Place) -> dict[str, ast.AST] | None:
        if path not in self._names:
            self._names[path] = self._read(path, at)
        return self._names[path]

    def _read(self, path: str, at: Place) -> dict[str, ast.AST] | None:
        try:
            text = self._archive.read(path)
            if text is None or len(text) > LIMIT_SOURCE_BYTES:
                raise ValueError(f"no Python source of at most {LIMIT_SOURCE_BYTES} bytes")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return dict(_top_level(ast.parse(decode_source(text)).body))
        except SyntaxError as error:
            # The file stands next to the workflow file, wherever that is.
            shown = str(PurePosixPath(self._problems.file).parent / path)
            self._problems.error(error.msg, At(max(0, error.lineno or 0), max(0, error.offset or 0)), name=path, file=shown)
        except (ValueError, RecursionError, MemoryError, TooLargeError) as error:
            self._problems.error(f"{path} cannot be read: {str(error) or 'nested too deeply'}", at, name=path)
        return None


def _top_level(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Every name that a module defines, also under `if` and `try`; `*` for what a star import may bring."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name, statement
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name.split(".")[0], statement) for alias in statement.names)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.For)):
            yield from _assigned(statement)
        for part in ("body", "orelse", "finalbody") if not isinstance(statement, _SCOPES) else ():
            yield from _top_level(getattr(statement, part, []))
        for inner in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            yield from _top_level(inner.body)


def _assigned(statement: ast.Assign | ast.AnnAssign | ast.For) -> Iterator[tuple[str, ast.AST]]:
    """The names that a statement gives to values, with the value where it is all that the name stands for."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    value = statement if isinstance(statement, ast.For) else statement.value
    for target in targets:
        whole = value is not None and isinstance(target, ast.Name)
        names = (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
        yield from ((name, value if whole and value is not None else statement) for name in names)

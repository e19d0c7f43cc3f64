"""Files and functions of the archive, read but never run."""

from collections.abc import Iterable

import pytest

from flowyard.workflows.check import check

STEPS = rb"""
import json
from other import borrowed
raise SystemExit("never run")
def one(x): ...
def two(x, y=1): ...
def many(*xs): ...
async def aware(x, context): ...
def keyword(x, *, context=None): ...
def named(x, *, size): ...
class Wrapped: ...
pattern = "\d"
made = lambda x: x
@json.wraps
def decorated(): ...
if json:
    def hidden(x): ...
"""


class Files:
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def exists(self, path: str) -> bool:
        return path in self.files or any(name.startswith(path + "/") for name in self.files)

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def names(self) -> Iterable[str]:
        return self.files


FILES = Files(
    {"steps.py": STEPS, "pkg/__init__.py": b"def f(x): ...", "cnn.pt": b"", "models/a/model.py": b"", "bad.py": b"def f(:"}
)


def found(head: str, call: str = "[id, in]") -> list[str]:
    text = f"name: w\n{head}\nworkflow: {{out: {call}}}\n"
    return [str(problem) for problem in check(text.encode(), "w", FILES).problems]


@pytest.mark.parametrize("name", ["one", "two", "many", "aware", "keyword", "Wrapped", "made", "decorated", "hidden", "borrowed"])
def test_a_function_that_is_there_is_accepted(name: str) -> None:
    assert found(f"functions: {{f: steps:{name}}}", "[f, in]") == []


def test_a_function_of_a_package_is_found() -> None:
    assert found("functions: {f: pkg:f}", "[f, in]") == []


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("one", "[f]", "takes 1 argument, not 0"),
        ("one", "[f, in, in]", "takes 1 argument, not 2"),
        ("two", "[f, in, in, in]", "takes 1 to 2 arguments, not 3"),
        ("aware", "[f, in, in]", "takes 1 argument, not 2"),
        ("keyword", "[id, [f]]", "takes 1 argument, not 0"),
    ],
)
def test_a_call_that_the_signature_does_not_take_is_refused(name: str, call: str, message: str) -> None:
    problems = found(f"functions: {{f: steps:{name}}}", call)
    assert any(f'error: function "f" {message}' in problem for problem in problems)


BAD = [
    ("functions: {f: steps:oen}", 'w:2:16: error: function "f": no "oen" in steps.py (did you mean "one"?)'),
    ("functions: {f: stpes:one}", 'w:2:16: error: function "f": no module "stpes" in the archive (did you mean "steps.py"?)'),
    ("functions: {f: bad:f}", "bad.py:1:7: error: invalid syntax"),
    ("models: {m: cn.pt}", 'w:2:13: error: model "m": no file "cn.pt" in the archive (did you mean "cnn.pt"?)'),
    ("models: {m: ../cnn.pt}", 'w:2:13: error: model "m": no file "../cnn.pt" in the archive (did you mean "cnn.pt"?)'),
    (
        "models: {m: {url: cnn.pt, options: {class: steps:Wraped}}}",
        'w:2:36: error: model "m": no "Wraped" in steps.py (did you mean "Wrapped"?)',
    ),
    ("models: {m: steps:Wraped}", 'w:2:13: error: model "m": no "Wraped" in steps.py (did you mean "Wrapped"?)'),
]


@pytest.mark.parametrize(("head", "expected"), BAD)
def test_what_is_not_in_the_archive_is_refused_with_the_nearest_name(head: str, expected: str) -> None:
    assert found(head) == [expected]


@pytest.mark.parametrize(
    "url",
    ["cnn.pt", "./cnn.pt", "models/a", "models/a/", '"{model_dir}/cnn.pt"', '"file://{model_dir}/models/a"', "steps:Wrapped",
     "https://host/x.zip", "file:/x/y.pt", "/abs/x.pt", "s3://b/k", "djl://a/b", "{model: 'registered:2'}"],
)  # fmt: skip
def test_models_that_are_there_or_elsewhere_are_accepted(url: str) -> None:
    assert found(f"models: {{m: {url}}}") == []


def test_a_function_that_needs_an_argument_by_name_is_refused() -> None:
    message = 'function "f" needs `size` by name, and is called with arguments in order'
    assert found("functions: {f: steps:named}", "[f, in]") == [f"w:3:18: error: {message}"]


def test_a_source_that_cannot_be_read_is_one_problem_however_many_functions_it_has() -> None:
    assert found("functions: {f: bad:f, g: bad:g}", "[f, [g, in]]") == ["bad.py:1:7: error: invalid syntax"]


@pytest.mark.parametrize(
    "source",
    [
        b"match 1:\n  case 1:\n    def f(x): ...\n",
        b"for f in (print,): ...\n",
        b"with open('x') as g:\n  f = g\n",
        b"while True:\n  def f(x): ...\n",
        b"def __getattr__(name): ...\n",
        b"(f, g) = (print, 3)\n",
        b"f: object = print\n",
        b"f = lambda x: x\n",
        b"# -*- coding: latin-1 -*-\n# \xe9\ndef f(x): ...\n",
        b"\xef\xbb\xbfdef f(x): ...\r\n",
    ],
)
def test_a_name_is_found_wherever_it_is_defined(source: bytes) -> None:
    checked = check(b"name: w\nfunctions: {f: s:f}\nworkflow: {out: [f, in]}\n", "w", Files({"s.py": source}))
    assert checked.problems == ()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"def g():\n  def f(x): ...\n", 'w:2:16: error: function "f": no "f" in s.py'),
        (b"class C:\n  def f(x): ...\n", 'w:2:16: error: function "f": no "f" in s.py'),
        (b"f = [print]\n", 'w:2:16: error: function "f": "f" in s.py is nothing that can be called'),
        (b"f = lambda: 1\n", 'w:3:18: error: function "f" takes 0 arguments, not 1'),
        (b"# \xe9\ndef f(x): ...\n", "s.py: error: invalid or missing encoding declaration"),
        (b"# -*- coding: nonsense -*-\n", "s.py: error: unknown encoding: nonsense"),
        (b"def f(x): \0", "s.py: error: source code "),
    ],
)
def test_what_a_source_does_not_define(source: bytes, expected: str) -> None:
    (problem,) = check(b"name: w\nfunctions: {f: s:f}\nworkflow: {out: [f, in]}\n", "w", Files({"s.py": source})).problems
    assert str(problem).startswith(expected)


def test_a_model_may_be_a_callable_of_a_file() -> None:
    assert found("models: {m: 'steps.py:one'}") == []
    (problem,) = found("models: {m: 'steps.py:oen'}")
    assert problem.endswith('no "oen" in steps.py (did you mean "one"?)')


def test_a_source_that_is_too_deep_is_a_problem() -> None:
    files = Files({"deep.py": b"-" * 100_000 + b"1"})
    checked = check(b"name: w\nfunctions: {f: deep:f}\nworkflow: {out: [f, in]}\n", "w", files)
    assert [str(problem) for problem in checked.problems] == ["w:2:16: error: deep.py cannot be read: nested too deeply"]


MAR = b"name: w\nmodels: {m: x/a.mar, n: b.mar}\nworkflow: {out: [m, [n, in]]}\n"


@pytest.mark.parametrize(
    ("store", "known", "expected"),
    [
        (None, False, 'warning: model "m": "x/a.mar" is not in the archive (--model-store says where else it may be)'),
        (None, True, 'error: model "m": "x/a.mar" is not in the archive (did you mean "b.mar"?)'),
        (["a.mar"], False, 'warning: model "m": "x/a.mar" is neither in the archive nor in the model store'),
        (["c.mar"], True, 'error: model "m": "x/a.mar" is neither in the archive nor in the model store (did you mean "c.mar"?)'),
        (["x/a.mar"], True, None),
    ],
)
def test_a_mar_may_be_in_the_model_store(store: list[str] | None, known: bool, expected: str | None) -> None:
    stored = Files(dict.fromkeys(store, b"")) if store is not None else None
    checked = check(MAR, "w", Files({"b.mar": b""}), store=stored, is_store_known=known)
    assert [str(problem) for problem in checked.problems] == ([f"w:2:13: {expected}"] if expected else [])
    assert (checked.plan is None) == (expected is not None and expected.startswith("error"))


def test_the_same_file_missing_twice_is_two_problems() -> None:
    assert len(found("models: {m: x.pt, n: x.pt}")) == 2

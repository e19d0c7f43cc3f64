"""Models and functions in Python: how they are found, called, and fail."""

import sys
import textwrap

import numpy as np
import pytest

from flowyard.engines.base import Call, ModelSource
from flowyard.engines.python import PythonEngine
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import InvalidInputError, InvalidModelError, NodeError, OutOfMemoryError
from flowyard.schemas.frames import Context


@pytest.fixture
def load(tmp_path):
    before, loaded = set(sys.modules), []

    def write_and_load(code, path="steps.py", functions=None):
        (tmp_path / "steps.py").write_text(textwrap.dedent(code))
        loaded.append(PythonEngine().load(ModelSource(root=str(tmp_path), path=path, functions=functions or {}), CPU))
        return loaded[-1]

    yield write_and_load
    for model in loaded:
        model.unload()
    for name in set(sys.modules) - before:
        if name.startswith("steps"):
            del sys.modules[name]


def call(*args, callee="", context=None):
    return Call(callee, list(args), context or Context())


def test_a_function_gets_its_arguments_and_the_context(load):
    model = load(
        """
        def predict(x, y=1, *, context):
            return [x, y, context.request_id, context.headers["accept"], context.time_left_s]
        """
    )
    context = Context("r1", {"accept": "text/plain"}, 0.5)
    outcomes = model.predict([call(1, 2, context=context), call(3, context=context)])
    assert outcomes == [[1, 2, "r1", "text/plain", 0.5], [3, 1, "r1", "text/plain", 0.5]]


def test_async_calls_of_a_batch_run_at_the_same_time(load):
    model = load(
        """
        import asyncio
        here, everybody = [], asyncio.Event()

        async def predict(x):
            here.append(x)
            if len(here) == 3:
                everybody.set()
            await asyncio.wait_for(everybody.wait(), 10)
            if x == 2:
                raise ValueError("two")
            return x
        """
    )
    outcomes = model.predict([call(1), call(2), call(3)])
    assert (outcomes[0], outcomes[2]) == (1, 3)
    assert outcomes[1].message == "ValueError: two"


def test_functions_of_a_workflow(load):
    code = """
    def double(x): return 2 * x
    class Namer:
        def predict(self, batch): return [f"{len(batch)}:{item}" for item in batch]
    """
    model = load(code, path="", functions={"twice": "steps:double", "name": "steps:Namer"})
    outcomes = model.predict(
        [call(1, callee="twice"), call("a", callee="name"), call(2, callee="twice"), call("b", callee="name")]
    )
    assert outcomes == [2, "2:a", 4, "2:b"]
    assert isinstance(model.predict([call(1, callee="other")])[0], NodeError)


def test_a_class_that_raises_for_one_item(load, capfd):
    model = load(
        """
        class Anything:
            def predict(self, batch):
                return [1 / item for item in batch]
        """
    )
    outcomes = model.predict([call(1), call(0), call(2)])
    assert (outcomes[0], outcomes[2]) == (1.0, 0.5)
    assert isinstance(outcomes[1], NodeError)
    assert outcomes[1].message == "ZeroDivisionError: division by zero"
    assert 'steps.py", line 4' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("batch + batch", "2 results for 1 items"),
        ("{}", "a dict"),
        ("None", "a NoneType"),
        ("'x'", "a str"),
        ("iter(batch)", "iterator"),
    ],
)
def test_a_class_that_returns_something_else(load, result, says):
    model = load(f"class M:\n    def predict(self, batch): return {result}")
    (outcome,) = model.predict([call(1)])
    assert isinstance(outcome, NodeError)
    assert says in outcome.message


def test_a_class_may_return_an_array_and_be_async(load):
    model = load(
        """
        import numpy as np
        class M:
            async def load(self, device): self.device = device
            async def predict(self, batch): return np.stack(batch) + len(self.device)
        """
    )
    outcomes = model.predict([call(np.zeros(2)), call(np.ones(2))])
    assert [outcome.tolist() for outcome in outcomes] == [[3, 3], [4, 4]]


def test_what_user_code_may_raise(load):
    model = load(
        """
        import asyncio, sys
        from flowyard.schemas.errors import InvalidInputError
        def predict(kind):
            if kind == "exit": sys.exit(3)
            if kind == "interrupt": raise KeyboardInterrupt
            if kind == "memory": raise MemoryError("big")
            if kind == "input": raise InvalidInputError("send a cat")
            return kind
        """
    )
    kinds = ("exit", "fine", "interrupt", "memory", "input")
    leaves, fine, interrupt, memory, wrong = model.predict([call(kind) for kind in kinds])
    assert fine == "fine"
    assert leaves.message == "SystemExit: 3"
    assert interrupt.message == "KeyboardInterrupt"
    assert isinstance(memory, OutOfMemoryError)
    assert isinstance(wrong, InvalidInputError)
    assert wrong.message == "send a cat"


def test_exit_in_async_code(load):
    model = load("import sys\nasync def predict(x):\n    if x: sys.exit(x)\n    return x")
    outcomes = model.predict([call(1), call(0)])
    assert outcomes[0].message == "SystemExit: 1"
    assert outcomes[1] == 0


@pytest.mark.parametrize(
    ("code", "path", "says"),
    [
        ("import os\n\nimport foo_absent", "steps:f", "^steps.py:3: ModuleNotFoundError: No module named 'foo_absent'$"),
        ("x = 1\ndef f(:", "steps:f", "^steps.py:2: SyntaxError: "),
        ("raise SystemExit(1)", "steps:f", "^steps.py:1: SystemExit: 1$"),
        ("def decode(): pass", "steps:decod", "has no 'decod', but 'decode'"),
        ("x = 1", "steps:x", "not callable"),
        ("", "absent:f", r"no module 'absent' in the archive \(absent.py\)"),
        ("", "absent.py:f", "no file 'absent.py'"),
        ("class C:\n    pass", "steps:C", "class C has no predict method"),
        ("class C:\n    def predict(self, b): ...\n    def load(self, d):\n        [][1]", "steps:C", "^steps.py:4: IndexError"),
        ("class C:\n    async def load(self, d): [][1]\n    def predict(self, b): ...", "steps:C", "IndexError"),
        ("def other(): pass", "steps.py", "looked for a class Model, a function predict.*found other"),
        ("", "steps.py", "found nothing"),
    ],
)
def test_what_cannot_be_loaded(load, code, path, says):
    with pytest.raises(InvalidModelError, match=says):
        load(code, path=path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "class Model:\n    def predict(self, b): return ['M']\nclass B:\n    def predict(self, b): ...\ndef predict(x): ...",
            "M",
        ),
        ("class B:\n    def predict(self, b): return ['B']\ndef predict(x): return 'f'", "f"),
        ("class B:\n    def predict(self, b): return ['B']\nclass Other: pass\nclass _C(B): pass", "B"),
    ],
)
def test_what_a_file_alone_stands_for(load, code, expected):
    assert load(code).predict([call(1)]) == [expected]


def test_a_file_named_like_an_installed_module(tmp_path):
    (tmp_path / "json.py").write_text("def predict(x): return 'mine'")
    model = PythonEngine().load(ModelSource(root=str(tmp_path), path="json:predict"), CPU)
    assert model.predict([call(1)]) == ["mine"]
    assert hasattr(sys.modules["json"], "dumps")


def test_several_arguments_are_one_item(load):
    model = load("class M:\n    def predict(self, batch): return [sum(item) for item in batch]")
    assert model.predict([call(1, 2), call(3, 4)]) == [3, 7]

"""What a DJL model folder says about itself, and what is wrong with it."""

from __future__ import annotations

import pytest

from flowyard.engines.djl.folder import recognise
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.models import ModelSpec

HANDLER = "def handle(inputs):\n    return None\n"


@pytest.fixture
def folder(tmp_path):
    def write(**files):
        for name, content in files.items():
            (tmp_path / name.replace("__", ".")).write_text(content)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "source",
    [
        HANDLER,
        "async def handle(inputs):\n    return None\n",
        "from steps import handle\n",
        "from steps import run as handle\n",
        "handle = print\n",
        "from djl_python import Input\n",
        "import djl_python.inputs\n",
        "def broken(\nimport djl_python",
    ],
)
def test_a_python_file_that_is_written_for_djl(folder, source):
    found = recognise(folder(model__py=source))
    assert (found.engine, found.path) == ("Python", str(found.folder / "model.py"))


@pytest.mark.parametrize(
    "source", ["class Model:\n    def predict(self, batch): ...\n", "def predict(x):\n    handle = x\n", "def ("]
)
def test_a_python_file_that_is_not(folder, source):
    assert recognise(folder(model__py=source)) is None


def test_a_folder_in_a_folder_stands_for_it(tmp_path):
    (tmp_path / "echo").mkdir()
    (tmp_path / "echo" / "echo.py").write_text(HANDLER)
    assert recognise(tmp_path).path == str(tmp_path / "echo" / "echo.py")


def test_entry_point_and_handler(folder):
    path = folder(
        serving__properties="option.entryPoint=run.py\noption.handler=go", run__py="def go(inputs): ...", model__py=HANDLER
    )
    found = recognise(path)
    assert found.path == str(path / "run.py")
    assert found.parameters == {"entryPoint": "run.py", "handler": "go"}
    module = recognise(folder(serving__properties="option.entryPoint=djl_python.huggingface"))
    assert module.path == "djl_python.huggingface"


def test_settings(folder):
    path = folder(
        model__py=HANDLER,
        serving__properties="""
            job_queue_size=10
            max_dynamic_batch_size=4
            batch_size=8
            max_batch_delay=5
            max_idle_time=-1
            minWorkers=2
            maxWorkers=4
            gpu.maxWorkers=1
            load_on_devices=cpu
            option.predict_timeout=2
            option.model_loading_timeout=30
        """,
    )
    found = recognise(path)
    spec = ModelSpec(device="cpu", job_queue_size=10, batch_size=8, max_batch_delay=5, min_worker=2, max_worker=4, timeout=2.0)
    assert found.spec() == spec
    assert found.spec("gpu").max_worker == 1
    assert found.loading_timeout_s() == 30.0
    assert recognise(folder(serving__properties="")).loading_timeout_s() is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size=many", "serving.properties:1: batch_size: 'many' is not allowed"),
        ("\nmaxWorkers=1001", "serving.properties:2: maxWorkers: '1001' is not allowed"),
        ("option.predict_timeout=soon", "serving.properties:1: option.predict_timeout: 'soon'"),
        ("engine=TensorFlow", "serving.properties:1: unknown engine 'TensorFlow'"),
        ("option.entryPoint=gone.py", "serving.properties:1: option.entryPoint: there is no file 'gone.py'"),
        ("option.entryPoint=../x.py", "leads out of the model's folder"),
        ("engine=OnnxRuntime", "serving.properties:1: no model in the folder"),
        ("a=\\u12", "serving.properties:1: \\u needs four"),
    ],
)
def test_mistakes(folder, text, words):
    with pytest.raises(InvalidModelError) as caught:
        recognise(folder(model__py=HANDLER, serving__properties=text)).spec()
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("names", "said", "path"),
    [
        (["m.pkl"], "", "djl_python.sklearn_handler"),
        (["m.skops", "labels.txt"], "", "djl_python.sklearn_handler"),
        (["m.pkl", "model.onnx"], "", None),
        (["m.pkl", "model.onnx"], "engine=Python", "djl_python.sklearn_handler"),
    ],
)
def test_models_of_scikit_learn_come_behind_those_that_djl_looks_for_first(folder, tmp_path, names, said, path):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    found = recognise(folder(serving__properties=said) if said else tmp_path)
    assert (found.path if found is not None else None) == path

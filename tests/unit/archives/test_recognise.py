import zipfile

import pytest

from flowyard.platform.archives.recognise import MAX_WORKFLOW_BYTES, Kind, recognise
from flowyard.schemas.errors import InvalidArchiveError

from .building import ONNX, gz, tar_bytes, write, zip_bytes


def stored(*names):
    return zip_bytes([(name, b"1") for name in names], zipfile.ZIP_STORED)


KINDS = [
    (zip_bytes([("model.onnx", b"x")]), Kind.ZIP),
    (zip_bytes([("MAR-INF/MANIFEST.json", b"{}"), ("model.pt", b"x")]), Kind.ZIP),
    (tar_bytes([("a", b"x")]), Kind.TAR),
    (gz(tar_bytes([("a", b"x")])), Kind.TAR_GZ),
    (stored("m/data.pkl", "m/code/a.py", "m/constants.pkl", "m/version", ".data/serialization_id"), Kind.TORCH),
    (stored("archive/data.pkl", "archive/byteorder", "archive/data/0", "archive/version"), Kind.TORCH),
    (stored("e/archive_format", "e/byteorder", "e/models/model.json"), Kind.TORCH),
    (stored("serialized_exported_program.json", "serialized_state_dict.pt", "version"), Kind.TORCH),
    (stored("m/data.pkl", "m/version", "m/workflow.yaml"), Kind.ZIP),
    (stored("m/data.pkl", "m/version", "n/model.onnx"), Kind.ZIP),
    (stored("data.pkl", "version"), Kind.ZIP),
    (zip_bytes([("m/data.pkl", b"x"), ("m/version", b"1")]), Kind.ZIP),
    (ONNX, Kind.ONNX),
    (ONNX + b"\x4a\x00", Kind.MODEL),
    (ONNX[:-1], Kind.MODEL),
    (ONNX + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Kind.MODEL),
    (ONNX + b"\x3a\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02", Kind.MODEL),
    (b"\x08\x0a" * 200_000, Kind.MODEL),
    (b"\x80\x02}q\x00.", Kind.MODEL),
    (b"name: w\nmodels:\n  m: m.onnx\nworkflow:\n  out: [m, in]\n", Kind.WORKFLOW),
    (b"\xef\xbb\xbfworkflow: {out: [m, in]}\n", Kind.WORKFLOW),
    (b"workflow:\n  out: [broken\n", Kind.WORKFLOW),
    (b'{"models": {"m": "m.onnx"}, "workflow": {"out": ["m", "in"]}}', Kind.WORKFLOW),
    (b'{"workflow": {"out": broken', Kind.WORKFLOW),
    (b'{"learner": {}}', Kind.MODEL),
    (b"def handle(inputs):\n    return inputs\n", Kind.MODEL),
    (b"models: list[str] = []\n", Kind.MODEL),
    (b"workflow:\n\x00", Kind.MODEL),
    (b"workflow:\n\xff", Kind.MODEL),
    (b"workflow:\n" + b"#" * MAX_WORKFLOW_BYTES, Kind.MODEL),
    (b"<html>", Kind.MODEL),
]


@pytest.mark.parametrize(("data", "kind"), KINDS)
def test_kinds_by_content(tmp_path, data, kind):
    assert recognise(write(tmp_path, data, "misleading.tar.gz")) is kind


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04junk", "the ZIP archive is broken"),
        (b"\x1f\x8b\x08junk", "the gzip stream is broken"),
        (gz(b"one file"), "the gzip file holds no tar archive"),
    ],
)
def test_broken_files(tmp_path, data, message):
    with pytest.raises(InvalidArchiveError, match=message):
        recognise(write(tmp_path, data))


def test_files_that_pytorch_writes(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(2)}, tmp_path / "state.pt")
    assert recognise(tmp_path / "state.pt") is Kind.TORCH


def test_files_that_onnx_writes(tmp_path):
    onnx = pytest.importorskip("onnx")
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, producer_name="test", doc_string="text"), tmp_path / "m")
    assert recognise(tmp_path / "m") is Kind.ONNX

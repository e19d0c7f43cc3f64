import pytest

from flowyard.platform.archives.view import FolderView
from flowyard.schemas.errors import TooLargeError


@pytest.fixture
def view(tmp_path):
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "workflow.yaml").write_bytes(b"name: x")
    (inside / "sub/m.onnx").write_bytes(b"m")
    (tmp_path / "secret").write_bytes(b"s")
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to(tmp_path)
    (inside / "alias").symlink_to("sub/m.onnx")
    (inside / "dangling").symlink_to("absent")
    return FolderView(inside)


@pytest.mark.parametrize(
    ("path", "contents"),
    [
        ("workflow.yaml", b"name: x"),
        ("sub/m.onnx", b"m"),
        ("./sub/../sub/m.onnx", b"m"),
        ("alias", b"m"),
        ("sub", None),
        ("absent", None),
        ("dangling", None),
        ("out", None),
        ("up/secret", None),
        ("../secret", None),
        ("../inside-not", None),
        ("/etc/passwd", None),
        ("a\0b", None),
        ("", None),
    ],
)
def test_reading_stays_inside(view, path, contents):
    assert view.read(path) == contents


@pytest.mark.parametrize(
    ("path", "there"),
    [("sub", True), ("sub/m.onnx", True), ("alias", True), ("absent", False), ("out", False), ("..", False), ("up", False)],
)
def test_existence_is_told_inside_only(view, path, there):
    assert view.exists(path) is there


def test_names(view):
    assert list(view.names()) == ["alias", "workflow.yaml", "sub/m.onnx"]


def test_large_files_are_not_read(tmp_path):
    (tmp_path / "big").write_bytes(b"12345")
    with pytest.raises(TooLargeError, match="big has more than 4 bytes"):
        FolderView(tmp_path, max_read_bytes=4).read("big")

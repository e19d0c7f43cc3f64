import re
from pathlib import Path

import pytest

from flowyard.platform.archives.locate import Roots, resolve_url
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import ForbiddenError, InvalidRequestError, ModelNotFoundError


@pytest.fixture
def place(tmp_path):
    """A store with a model, a further allowed folder, and a secret next to them."""
    for name in ("store/a b.onnx", "store/sub/m.onnx", "allowed/m.onnx", "secret/m.onnx", "store-2/m.onnx"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "store/out").symlink_to(tmp_path / "secret")
    (tmp_path / "store/across").symlink_to(tmp_path / "allowed")
    (tmp_path / "store/loop").symlink_to("loop")
    (tmp_path / "way-in").symlink_to(tmp_path / "store")
    return tmp_path


@pytest.fixture
def roots(place):
    return Roots.of(Settings(model_store=str(place / "way-in"), allowed_paths=(str(place / "allowed"),)))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a b.onnx", "store/a b.onnx"),
        ("sub", "store/sub"),
        ("sub/../sub//m.onnx", "store/sub/m.onnx"),
        ("across/m.onnx", "allowed/m.onnx"),
        ("{}/store/a b.onnx", "store/a b.onnx"),
        ("{}/way-in/sub", "store/sub"),
        ("{}/allowed/m.onnx", "allowed/m.onnx"),
        ("file:{}/store/a%20b.onnx", "store/a b.onnx"),
        ("file://{}/allowed/m%2Eonnx", "allowed/m.onnx"),
        ("FILE://localhost{}/store/sub/", "store/sub"),
        ("file:///{}/allowed", "allowed"),
        ("file:{}/allowed/m.onnx?topK=1&model_name=../x", "allowed/m.onnx"),
    ],
)
def test_urls_that_lead_somewhere(place, roots, url, expected):
    assert resolve_url(url.format(place), roots) == place / expected


@pytest.mark.parametrize(
    "url",
    [
        "{}/secret/m.onnx",
        "{}/secret/absent",
        "{}/store-2/m.onnx",
        "../secret/m.onnx",
        "out/m.onnx",
        "out/absent",
        "sub/../../secret",
        "{}",
        "/",
        "/etc/passwd",
        "file:///etc/passwd",
        "file:{}/store/%2e%2e/secret/m.onnx",
        "file:{}/store/..%2Fsecret",
    ],
)
def test_urls_that_lead_out(place, roots, url):
    url = url.format(place)
    with pytest.raises(ForbiddenError) as caught:
        resolve_url(url, roots)
    rest = "leads outside of the model store and of the folders in the setting allowed_paths"
    assert caught.value.message == f"url {url!r} {rest}"


@pytest.mark.parametrize("url", ["absent", "{}/allowed/absent", "file:{}/store/absent", "loop", "a b.onnx/x", "x" * 300])
def test_missing_models(place, roots, url):
    url = url.format(place)
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Invalid model url: {url}")):
        resolve_url(url, roots)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("djl://a/b", "djl: is not supported; a path is, and file:, http:, https:, s3:, gs:, az:, hf:"),
        ("C:\\m.onnx", "c: is not supported"),
        ("jar:///m", "jar: is not supported"),
        ("", "it is empty"),
        ("a\0b", "characters that no path has"),
        ("a\nb", "characters that no path has"),
        ("a\ud800", "characters that no path has"),
        ("file:///a%00b", "characters that no path has"),
        ("file:///a%zzb", "are written %25, %3F and %23"),
        ("file:///a%", "are written %25"),
        ("file:///a#b", "are written %25"),
        ("file:///%ff", "not a url of UTF-8 text"),
        ("file://[x/a", "not a url of UTF-8 text"),
        ("file://host/a", "expected is file:///path"),
        ("file://me:secret@host/a", "it has a user name or password; expected"),
        ("x" * 9000, "it has 9000 characters, 8192 are allowed"),
        ("file:a.onnx", "expected is file:///path"),
        ("file:", "expected is file:///path"),
    ],
)
def test_bad_urls(roots, url, message):
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        resolve_url(url, roots)


def test_without_a_store(place):
    with pytest.raises(ModelNotFoundError, match=r"Invalid model url: m\.onnx"):
        resolve_url("m.onnx", Roots())
    with pytest.raises(ForbiddenError, match="allowed_paths"):
        resolve_url(str(place / "store"), Roots())


def test_the_operator_may_lead_anywhere(place, roots, monkeypatch):
    monkeypatch.chdir(place / "secret")
    assert resolve_url("m.onnx", roots, trusted=True) == place / "secret/m.onnx"
    assert resolve_url(f"file:{place}/secret/m.onnx", Roots(), trusted=True) == place / "secret/m.onnx"
    with pytest.raises(ModelNotFoundError, match=r"Invalid model url: a b\.onnx"):
        resolve_url("a b.onnx", roots, trusted=True)
    with pytest.raises(InvalidRequestError):
        resolve_url("gs://x", roots, trusted=True)


def test_relative_roots_are_resolved(place, monkeypatch):
    monkeypatch.chdir(place)
    assert resolve_url("sub", Roots(Path("store"))) == place / "store/sub"

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.archives.names import (
    LoadItem,
    check_name,
    check_version,
    infer_model_name,
    is_archive_url,
    parse_load_item,
)
from flowyard.schemas.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mlp.zip", "mlp"),
        ("/models/my-model.v1.tar.gz", "my_model_v1"),
        ("file:///models/resnet.mar", "resnet"),
        ("file:/models/a%20b.tgz", "a_b"),
        ("https://host/x/mlp.tar.z?query=1#f", "mlp"),
        ("/models/mlp.ZIP", "mlp"),
        ("/models/mlp/", "mlp"),
        ("/models/mlp.zip/", "mlp_zip"),
        ("digits.onnx", "digits_onnx"),
        ("a.gz", "a"),
        ("_private", "_private"),
        ("-x.tar", "_x"),
        ("m\u00fcller.zip", "m_ller"),
    ],
)
def test_inferred_names(url, name):
    assert infer_model_name(url) == name


@pytest.mark.parametrize("url", ["", "/", "file:///", ".zip", "https://host", "https://[x/y"])
def test_urls_without_a_name(url):
    with pytest.raises(InvalidRequestError):
        infer_model_name(url)


@given(st.text())
def test_inferred_names_are_words(url):
    try:
        name = infer_model_name(url)
    except InvalidRequestError:
        return
    assert re.fullmatch(r"\w+", name, re.ASCII)


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "0", "a" * 128])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "_a", ".a", "-a", "a b", "a/b", "a\n", "\u00e9", "a+b", "a" * 129, "../x"])
def test_bad_names(name):
    with pytest.raises(InvalidRequestError, match=r"Invalid name: .*; allowed are up to 128 letters"):
        check_name(name)


@pytest.mark.parametrize("version", ["1", "1.0+cu12", "v1-rc_2", "a" * 64])
def test_good_versions(version):
    assert check_version(version) == version


@pytest.mark.parametrize("version", ["", "+1", "1 0", "1/2", "1\n", "a" * 65])
def test_bad_versions(version):
    with pytest.raises(InvalidRequestError, match=r"Invalid version: .*; allowed are up to 64 letters"):
        check_version(version)


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("mlp.zip", LoadItem("mlp.zip")),
        ("m=mlp.zip", LoadItem("mlp.zip", "m")),
        ("m:1.0=/x/mlp.zip", LoadItem("/x/mlp.zip", "m", "1.0")),
        ("[m:v1]=file:///x", LoadItem("file:///x", "m", "v1")),
        ("/models/a=b.onnx", LoadItem("/models/a=b.onnx")),
        ("https://host/x?a=b", LoadItem("https://host/x?a=b")),
        ("m=https://host/x?a=b", LoadItem("https://host/x?a=b", "m")),
        (" m=x ", LoadItem("x", "m")),
        ("m:=x", LoadItem("x", "m")),
        ("[mlp:v1:PyTorch:*]=https://host/mlp.zip?a=b", LoadItem("https://host/mlp.zip?a=b", "mlp", "v1", "PyTorch", "*")),
        ("mlp::Python:gpu0;gpu1=x", LoadItem("x", "mlp", None, "Python", "gpu0;gpu1")),
        ("[:v1]=x", LoadItem("x", None, "v1")),
        ("https://host?a=b", LoadItem("https://host?a=b")),
    ],
)
def test_load_items(text, item):
    assert parse_load_item(text) == item


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No url in ''; expected is [NAME[:VERSION[:ENGINE[:DEVICES]]]=]URL."),
        ("m=", "No url in 'm='"),
        ("=x", "'' in '=x' is not NAME[:VERSION[:ENGINE[:DEVICES]]]"),
        ("[]=x", "'[]' in '[]=x' is not NAME"),
        ("a b=x", "Invalid name: 'a b'"),
        ("m:v 1=x", "Invalid version: 'v 1'"),
        ("m:v1:PyTorch:*:more=x", "'m:v1:PyTorch:*:more' in 'm:v1:PyTorch:*:more=x' is not NAME"),
    ],
)
def test_bad_load_items(text, message):
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        parse_load_item(text)


@pytest.mark.parametrize("text", ["x", "m=x", "m:v1=x", "m:v1:Python=x", "m::Python:*=x", ":v1=x"])
def test_a_load_item_is_told_as_it_is_written(text):
    assert str(parse_load_item(text)) == text


@pytest.mark.parametrize(
    ("url", "yes"),
    [
        ("a/flow.zip", True),
        ("https://host/flow.tar.gz?topK=1", True),
        ("file:/a/flow.MAR", True),
        ("a/flow", False),
        ("https://host/flow?as=a.zip", False),
        ("a/workflow.json", False),
    ],
)
def test_which_urls_are_of_archives(url, yes):
    assert is_archive_url(url) is yes

"""Java property files, read as Java does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.properties import as_mapping, format_properties, parse_properties, read_properties


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a=b", "a", "b"),
        ("a = b ", "a", "b "),
        ("  a : b", "a", "b"),
        ("a b c", "a", "b c"),
        ("a\t\tb", "a", "b"),
        ("a", "a", ""),
        ("a=", "a", ""),
        ("a==b", "a", "=b"),
        ("a = = b", "a", "= b"),
        (r"a\ b=c", "a b", "c"),
        (r"a\:b=c", "a:b", "c"),
        (r"a=\tx\n\\", "a", "\tx\n\\"),
        (r"a=\u00fc\z", "a", "üz"),
        ("a=1,\\\n    2,\\\r\n 3", "a", "1,2,3"),
        ("a=b\\\\", "a", "b\\"),
        ("load_models=ALL\\", "load_models", "ALL"),
        ("\n# no\n ! no\na=# yes", "a", "# yes"),
        ("a=1\\\n# 2", "a", "1# 2"),
        ("=x", "", "x"),
    ],
)
def test_an_entry(text, key, value):
    (entry,) = parse_properties(text)
    assert (entry.key, entry.value) == (key, value)


def test_lines_are_counted_and_the_last_of_a_key_counts():
    entries = parse_properties("# head\na=1\n\nb=2\\\n3\na=4\n")
    assert [(entry.key, entry.line) for entry in entries] == [("a", 2), ("b", 4), ("a", 6)]
    assert as_mapping(entries)["a"].value == "4"


def test_a_broken_escape_is_named_with_its_line():
    with pytest.raises(InvalidRequestError, match=r"x\.properties:2: .u needs four"):
        parse_properties("a=1\nb=\\u12", "x.properties")


def test_files_in_either_encoding(tmp_path):
    file = tmp_path / "serving.properties"
    for content in ("\ufeffa=ü".encode(), "a=ü".encode("latin-1")):
        file.write_bytes(content)
        (entry,) = read_properties(file)
        assert (entry.key, entry.value) == ("a", "ü")


def test_a_file_that_is_not_there_or_too_long(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"gone\.properties: cannot be read"):
        read_properties(tmp_path / "gone.properties")
    long = tmp_path / "long.properties"
    long.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(InvalidRequestError, match="larger than"):
        read_properties(long)


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_written_is_read_again(properties):
    text = format_properties(properties, "a comment")
    assert text.isascii()
    assert {key: entry.value for key, entry in as_mapping(parse_properties(text)).items()} == properties


def test_what_is_written_is_what_java_writes():
    text = format_properties({"a b": " x=1:2#3!", "ü": "\t\n\\😀"}, "Saving snapshot")
    assert text == "#Saving snapshot\na\\ b=\\ x\\=1\\:2\\#3\\!\n\\u00fc=\\t\\n\\\\\\ud83d\\ude00\n"

"""JSON as Gson's lenient mode reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.schemas.lenient_json import MAX_CHARS, MAX_DEPTH, read_lenient

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 0, 2, "\t"]))
def test_what_is_json_means_the_same(document, ascii_only, indent):
    assert read_lenient(json.dumps(document, ensure_ascii=ascii_only, indent=indent)) == document


@given(st.text(alphabet="{}[]:,;=>'\"\\/*# \nabu0-1.e"))
def test_whatever_is_written_is_read_or_refused(text):
    try:
        expected = json.loads(text)
    except ValueError:
        expected = ...
    try:
        found = read_lenient(text)
    except ValueError:
        found = ...
    assert expected is ... or found == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{url:noop.mar}", {"url": "noop.mar"}),
        ("{url: noop.mar, n:1}", {"url": "noop.mar", "n": 1}),
        ("{'a':'it\\'s \"it\"'}", {"a": 'it\'s "it"'}),
        ("{a=1;b=>2}", {"a": 1, "b": 2}),
        ("{a: TRUE, b: False, c: NULL}", {"a": True, "b": False, "c": None}),
        ("{a: 1.0, b: 1a, c: -, d: 01}", {"a": 1.0, "b": "1a", "c": "-", "d": "01"}),
        ("[1,,2;]", [1, None, 2, None]),
        ("[,]", [None, None]),
        ("# of a server\n{a: /* here */ 1} // end", {"a": 1}),
        (")]}'\n{a:1}", {"a": 1}),
        ('{"a": 1, a: 2}', {"a": 2}),
        ("noop.mar", "noop.mar"),
        ('"two\nlines\\\nand \\u00fc"', "two\nlines\nand ü"),
    ],
)
def test_what_gson_takes_for_json(text, value):
    assert read_lenient(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "at character 1: a name or value is missing"),
        ("{a}", "at character 3: a colon is missing"),
        ("{a:1,}", "at character 6: a name or value is missing"),
        ("{a:http://h/x.mar}", "at character 8: a comma or } is missing"),
        ("{a:1 b:2}", "at character 6: a comma or } is missing"),
        ("[1 2]", "at character 4: a comma or ] is missing"),
        ("{a:1} b", "at character 7: something follows the document"),
        ("'open", "at character 1: a text does not end"),
        ("'\\x'", r"at character 1: there is no escape \\x"),
        ("[" * (MAX_DEPTH + 5), "it is nested deeper than"),
        ("x" * (MAX_CHARS + 1), "longer than"),
        ("'\\ud800'", "."),
    ],
)
def test_what_is_none_is_told_with_its_place(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_lenient(text)

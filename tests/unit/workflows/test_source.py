"""The text of a workflow file: YAML and JSON, positions and limits."""

import pytest

from flowyard.workflows import source
from flowyard.workflows.problems import Problems


def read(text: str | bytes, filename: str = "w.yaml") -> object:
    problems = Problems(filename)
    node = source.read(text.encode() if isinstance(text, str) else text, filename, problems)
    if problems.failed or node is None:
        return [str(problem).removeprefix(filename + ":") for problem in problems.all()]
    return source.to_value(node)


VALUES = [
    (
        "a: no\nb: on\nc: 1e5\nd: 0x1f\ne: ~\nf: 2001-01-01\ng: 'x'\nh: .inf",
        {"a": "no", "b": "on", "c": 1e5, "d": 31, "e": None, "f": "2001-01-01", "g": "x", "h": float("inf")},
    ),
    ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
    ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
    ('{\n\t"a": [1,\t"x\\u00e9\\ud83d\\ude00"], "b": {}, "c": []\n}', {"a": [1, "xé😀"], "b": {}, "c": []}),
    ("\ufeffa: 1", {"a": 1}),
]


@pytest.mark.parametrize(("text", "expected"), VALUES)
def test_yaml_and_json_read_the_same_way(text: str, expected: object) -> None:
    assert read(text) == expected


REFUSED = [
    ("a: !!python/name:os.system x", ["1:4: error: the tag tag:yaml.org,2002:python/name:os.system is not allowed"]),
    ("a: 1\n---\nb: 2", ["2:1: error: a second document; a file holds one workflow"]),
    ("a: &x [1, *x]", ["1:11: error: the anchor &x contains itself"]),
    ("a: *x", ["1:4: error: no anchor &x before this alias"]),
    ("a: 1\nb: 2\na: 3", ['3:1: error: duplicate key "a", first at line 1']),
    ("a: [1,\n b: 2", ["3:1: error: not YAML: did not find expected ',' or ']'"]),
    ("", ["error: the file is empty"]),
    ("# nothing", ["error: the file is empty"]),
    (b"a: \xff", ["1:4: error: the file is not UTF-8: byte 0xff"]),
    ("a: " + "[" * 70 + "]" * 70, ["1:67: error: nested deeper than 64 levels"]),
    ("[" * 500_000, ["1:65: error: nested deeper than 64 levels"]),
    ("a: 99999999999999999999999", ["1:4: error: a whole number that does not fit 64 bits"]),
    ("a" * (2 << 20), ["error: the file is larger than 1048576 bytes"]),
    ("? [a]\n: 1", ["1:3: error: a key must be a string"]),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_text_that_is_refused_says_where_and_why(text: str | bytes, expected: list[str]) -> None:
    problems = read(text)
    assert isinstance(problems, list)
    assert [line.strip() for line in problems] == expected


def test_anchors_that_expand_past_the_limit_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 9)]
    problems = read("\n".join(lines))
    assert isinstance(problems, list)
    assert "more than 100000 values once anchors are expanded" in problems[0]


JSON_REFUSED = [
    ('{"a": 1,\n "b" 2}', ["2:6: error: not JSON: Expecting ':' delimiter"]),
    ('{"a": 1, "a": 2}', ['1:10: error: duplicate key "a", first at line 1']),
    ("name: w", ["1:1: error: not JSON: Expecting value"]),
    ('{"a": NaN}', ["1:7: error: NaN is not JSON"]),
    ('{"a": "\\ud800"}', ["1:7: error: a lone surrogate in a string"]),
    ("[" * 70 + "]" * 70, ["1:65: error: nested deeper than 64 levels"]),
]


@pytest.mark.parametrize(("text", "expected"), JSON_REFUSED)
def test_json_that_is_refused_says_where_and_why(text: str, expected: list[str]) -> None:
    assert read(text, "w.json") == expected


def test_json_nested_past_the_stack_is_refused() -> None:
    assert read("[" * 400_000 + "]" * 400_000, "w.json") == [" error: nested deeper than 64 levels"]


def test_places_count_lines_and_columns_from_one() -> None:
    for filename, text in (("w.yaml", "a:\n  bc: [x, 17]\n"), ("w.json", '{"a":\n  {"bc": [1, 17]}}')):
        root = source.read(text.encode(), filename, Problems(filename))
        assert isinstance(root, source.Mapping)
        inner = root.entries["a"].value
        assert isinstance(inner, source.Mapping)
        listed = inner.entries["bc"].value
        assert isinstance(listed, source.Sequence)
        assert (listed.items[1].line, listed.items[1].column) == ((2, 11) if filename == "w.yaml" else (2, 14))

"""Pages of lists, and the pattern of the early documents."""

from __future__ import annotations

import pytest

from flowyard.platform.http.torchserve.pages import matches, slice_of
from flowyard.platform.http.torchserve.parameters import of_query, query_pairs

ITEMS = list(range(8))


@pytest.mark.parametrize(
    ("query", "found", "token"),
    [
        ("", ITEMS, None),
        ("limit=2", [0, 1], "2"),
        ("limit=2&next_page_token=6", [6, 7], "8"),
        ("limit=2&next_page_token=7", [7], None),
        ("limit=8", ITEMS, "8"),
        ("limit=9", ITEMS, None),
        ("limit=0", [], "0"),
        ("limit=-1", ITEMS, None),
        ("limit=101", ITEMS, None),
        ("limit=abc&next_page_token=abc", ITEMS, None),
        ("next_page_token=-1&limit=3", [0, 1, 2], "3"),
        ("next_page_token=100", [], None),
    ],
)
def test_a_page(query, found, token):
    assert slice_of(ITEMS, of_query(query_pairs(query.encode()))) == (found, token)


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [("e", "e10", True), ("e", "ver", True), ("e", "a", False), ("e*0", "e10", True), ("(((", "a", False), ("a.b", "axb", False)],
)
def test_a_pattern_is_a_text_and_no_regular_expression(pattern, name, found):
    assert matches(pattern, name) is found

"""Splitting English text into words, and words into n-grams."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

#: Characters that become words of their own, and those that only part words.
_WORDS = re.compile(r"([.,()!?])")
_GAPS = re.compile(r"<br />|[;:]")


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """Yields the tokens, then each run of 2, 3, … up to `ngrams` tokens joined by spaces."""
    yield from token_list
    for length in range(2, ngrams + 1):
        for start in range(len(token_list) - length + 1):
            yield " ".join(token_list[start : start + length])


def get_tokenizer(tokenizer: str | Callable[[str], list[str]] | None, language: str = "en") -> Callable[[str], list[str]]:
    """Finds a tokenizer.

    Args:
        tokenizer: `basic_english`, a function, or nothing for splitting at white space.
        language: Of the text.

    Returns:
        A function from text to tokens.

    Raises:
        ValueError: There is none of the name, or not for the language.
    """
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        return tokenizer
    if tokenizer != "basic_english" or language != "en":
        raise ValueError(f"no tokenizer {tokenizer!r} for the language {language!r}; there is basic_english for en")
    return _basic_english


def _basic_english(line: str) -> list[str]:
    """Lower case; punctuation apart, quotation marks, colons and semicolons gone, an apostrophe before what follows it."""
    text = line.lower().replace("'", " '  ").replace('"', "")
    return _WORDS.sub(r" \1 ", _GAPS.sub(" ", text)).split()

"""English contractions and what they stand for."""

_NOT = "are could did does do had has have is might must need ought should was were would".split()  # noqa: SIM905 - a list of words
_BE = {"i": ("m", "am"), "he": ("s", "is"), "she": ("s", "is"), "it": ("s", "is")} | dict.fromkeys(
    ("you", "we", "they"), ("re", "are")
)
_BE |= dict.fromkeys(("you", "we", "they"), ("re", "are"))
_ASKING = ("how", "that", "there", "what", "when", "where", "who", "why")
_HAVING = ("could", "might", "must", "should", "would", "what", "who", "to")

CONTRACTION_MAP = {
    **{f"{word}n't": f"{word} not" for word in _NOT},
    "ain't": "is not",
    "can't": "cannot",
    "mayn't": "may not",
    "shan't": "shall not",
    "won't": "will not",
    **{f"{word}'{short}": f"{word} {verb}" for word, (short, verb) in _BE.items()},
    **{f"{word}'ll": f"{word} will" for word in (*_BE, *_ASKING)},
    **{f"{word}'d": f"{word} would" for word in (*_BE, *_ASKING)},
    **{f"{word}'ve": f"{word} have" for word in (*_BE, *_HAVING)},
    **{f"{word}'s": f"{word} is" for word in _ASKING},
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "y'all": "you all",
    "'cause": "because",
}

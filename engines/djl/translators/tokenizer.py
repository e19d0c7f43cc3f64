"""Text to numbers and back, with the options of DJL's `HuggingFaceTokenizer`."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import Input
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import InvalidInputError, InvalidModelError

#: A text, or two that belong together.
Text: TypeAlias = str | tuple[str, str]
#: One encoded text, as the library has it.
Encoding: TypeAlias = Any

FILE = "tokenizer.json"
MAX_TOKENS = 1_000_000
#: Most texts of one request, most characters of them all, and most tokens when all are as long as the longest. One text may count
#: often: it is encoded again with each that it is compared with.
MAX_TEXTS = 10_000
MAX_CHARACTERS = 20_000_000
MAX_PADDED_TOKENS = 10_000_000
_TRUNCATIONS = {"true": "longest_first", "false": "", "do_not_truncate": ""} | {
    name: name for name in ("longest_first", "only_first", "only_second")
}
_PADDINGS = {"true": "longest", "longest": "longest", "max_length": "max_length", "false": "", "do_not_pad": ""}
_PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")
#: What is put together again after decoding, where the tokenizer's configuration asks for it.
_CLEAN_UPS = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer:
    """A tokenizer of the `tokenizers` library: tokenizer.json, or vocab.json and merges.txt, in the model's folder."""

    def __init__(self, arguments: Arguments) -> None:
        if arguments.has("tokenizer"):
            raise arguments.refusal("tokenizer", f"tokenizers of the hub are not fetched: put {FILE} into the model's folder")
        self._files = _files(arguments)
        self._special = arguments.flag("addSpecialTokens", default=True)
        self._int32 = arguments.flag("int32")
        self._truncation = _TRUNCATIONS[arguments.choice("truncation", "true", tuple(_TRUNCATIONS))]
        self._padding = _PADDINGS[arguments.choice("padding", "true", tuple(_PADDINGS))]
        self._max_length = arguments.integer("maxLength", -1, -1, MAX_TOKENS)
        self._model_max_length = arguments.integer("modelMaxLength", 512, 1, MAX_TOKENS)
        self._stride = arguments.integer("stride", 0, 0, MAX_TOKENS)
        self._multiple = arguments.integer("padToMultipleOf", 0, 0, MAX_TOKENS)
        self._config: dict[str, Any] = _configuration(arguments)
        self._changes = _changes(arguments)
        self._tokenizer: Any = None
        self._pad_id = 0
        #: How long an encoded text is at most, where that is limited.
        self._longest = MAX_PADDED_TOKENS

    def load(self) -> None:
        """Reads the files.

        Raises:
            InvalidModelError: They are broken.
        """
        from tokenizers import Tokenizer as Loaded  # noqa: PLC0415 - a server without such models runs without it

        try:
            tokenizer = Loaded.from_file(str(self._files[0])) if len(self._files) == 1 else _byte_pairs(*self._files)
        except Exception as error:  # noqa: BLE001 - the library raises Exception itself
            raise InvalidModelError(f"{self._files[0].name}: {error}") from None
        self._truncate(tokenizer)
        self._pad(tokenizer)
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """Encodes texts together, so that all become as long as the longest, unless `padding` says otherwise.

        Raises:
            InvalidInputError: The library cannot encode them, or there are none or too many.
        """
        self._check_size(texts)
        changed = [self._changed(text) for text in texts]
        try:
            encodings: list[Encoding] = self._tokenizer.encode_batch(changed, add_special_tokens=self._special)
        except Exception as error:  # noqa: BLE001 - the library raises Exception itself
            raise InvalidInputError(f"the text cannot be encoded: {error}") from None
        return encodings

    def inputs(self, encodings: Sequence[Encoding]) -> tuple[Input, Input, Input]:
        """What models take of encoded texts: numbers, attention mask, and which of two texts each token is of.

        Raises:
            InvalidInputError: The texts are of several lengths, as `padding` says.
        """
        ids = self._array([one.ids for one in encodings])
        mask = self._array([one.attention_mask for one in encodings])
        types = self._array([one.type_ids for one in encodings])
        return Input("input_ids", ids, self._pad_id), Input("attention_mask", mask), Input("token_type_ids", types)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=not self._special)
        if self._config.get("clean_up_tokenization_spaces"):
            for spaced in _CLEAN_UPS:
                text = text.replace(spaced, spaced[1:])
            text = text.replace(" ' ", "'")
        return text

    def id_of(self, token: str) -> int | None:
        """The number of a token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def _check_size(self, texts: Sequence[Text]) -> None:
        if not 0 < len(texts) <= MAX_TEXTS:
            raise InvalidInputError(f"expected 1 to {MAX_TEXTS} texts, got {len(texts)}")
        sizes = [len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts]
        tokens = len(texts) * min(max(sizes), self._longest)
        if sum(sizes) > MAX_CHARACTERS or tokens > MAX_PADDED_TOKENS:
            limits = f"{MAX_CHARACTERS} characters, and {MAX_PADDED_TOKENS} tokens if all were as long as the longest"
            raise InvalidInputError(f"{len(texts)} texts of {sum(sizes)} characters are too much; the limits are {limits}")

    def _changed(self, text: Text) -> Text:
        for change in self._changes:
            text = change(text) if isinstance(text, str) else (change(text[0]), change(text[1]))
        return text

    def _array(self, rows: list[list[int]]) -> Array:
        if len({len(row) for row in rows}) > 1:
            raise InvalidInputError("the texts have several lengths, and the model's key padding says not to fill them up")
        return np.array(rows, np.int32 if self._int32 else np.int64)

    def _length(self, tokenizer: Any) -> int:
        """How long a text may be: `maxLength`, else what the file says, and never more than the model takes."""
        in_file = (tokenizer.truncation or {}).get("max_length", -1)
        wanted = self._max_length if self._max_length > 0 else in_file
        length = min(wanted, self._model_max_length) if wanted > 0 else self._model_max_length
        if self._padding == "max_length" and self._truncation and self._multiple and length % self._multiple:
            # The next multiple, or the one before where that is more than the model takes.
            up = length + self._multiple - length % self._multiple
            length = up if up <= self._model_max_length else up - self._multiple
        return int(length)

    def _truncate(self, tokenizer: Any) -> None:
        length = self._length(tokenizer)
        if not self._truncation:
            tokenizer.no_truncation()
            return
        self._longest = length
        try:
            tokenizer.enable_truncation(length, stride=self._stride, strategy=self._truncation)
        except Exception as error:  # noqa: BLE001 - the library raises Exception itself
            raise InvalidModelError(f"maxLength {length} and stride {self._stride}: {error}") from None

    def _pad(self, tokenizer: Any) -> None:
        pad_id, token = self._pad_token(tokenizer)
        self._pad_id = pad_id
        if not self._padding:
            tokenizer.no_padding()
            return
        direction = (tokenizer.padding or {}).get("direction", self._config.get("padding_side", "right"))
        tokenizer.enable_padding(
            direction=direction,
            pad_id=pad_id,
            pad_token=token,
            length=self._length(tokenizer) if self._padding == "max_length" else None,
            pad_to_multiple_of=self._multiple or None,
        )

    def _pad_token(self, tokenizer: Any) -> tuple[int, str]:
        in_file = tokenizer.padding
        if in_file:
            return in_file["pad_id"], in_file["pad_token"]
        configured = self._config.get("pad_token")
        named = configured.get("content") if isinstance(configured, dict) else configured
        for token in (named, *_PAD_TOKENS):
            if isinstance(token, str) and (found := tokenizer.token_to_id(token)) is not None:
                return found, token
        return 0, "[PAD]"


def _files(arguments: Arguments) -> tuple[Path, ...]:
    place = arguments.file("tokenizerPath") if arguments.has("tokenizerPath") else arguments.folder
    if place.is_file():
        return (place,)
    if (place / FILE).is_file():
        return (place / FILE,)
    pair = (place / "vocab.json", place / "merges.txt")
    if all(file.is_file() for file in pair):
        return pair
    raise arguments.missing(FILE, "or vocab.json and merges.txt; another place with the key tokenizerPath")


def _configuration(arguments: Arguments) -> dict[str, Any]:
    """tokenizer_config.json, where there is one: what pads, and on which side."""
    named = arguments.has("tokenizerConfigPath")
    path = arguments.file("tokenizerConfigPath") if named else arguments.folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidModelError(f"{path.name}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidModelError(f"{path.name}: expected a JSON object")
    # As in DJL, spaces are put together again only where the configuration is named.
    return found if named else {key: found[key] for key in ("pad_token", "padding_side") if key in found}


def _changes(arguments: Arguments) -> list[Callable[[str], str]]:
    """What is done to a text before it is encoded."""
    changes: list[Callable[[str], str]] = []
    if arguments.flag("addPrefixSpace"):
        changes.append(lambda text: text if text.startswith(" ") else f" {text}")
    # A value other than true and false is a language, whose rules matter to Turkish only.
    if arguments.text("doLowerCase", "false").lower() != "false":
        changes.append(str.lower)
    if arguments.flag("stripAccents"):
        changes.append(_without_accents)
    return changes


def _without_accents(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))


def _byte_pairs(vocabulary: Path, merges: Path) -> Any:
    from tokenizers import ByteLevelBPETokenizer  # noqa: PLC0415

    return ByteLevelBPETokenizer.from_file(str(vocabulary), str(merges))

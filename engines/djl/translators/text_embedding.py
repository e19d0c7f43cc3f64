"""Models that turn a text into numbers that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import NamedArray
from flowyard.engines.djl.translators.texts import Prompts, TextTranslator, output_row, read_prompts, tokens
from flowyard.engines.inputs import Array
from flowyard.schemas.codecs import registry
from flowyard.schemas.errors import InvalidInputError, InvalidModelError, NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value

_HIDDEN = "last_hidden_state"
_EPSILON = 1e-12


class TextEmbedding(TextTranslator):
    """Answers a list of numbers for a text: the tokens' vectors pooled, and by default made as long as 1."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._pool = _POOLINGS[arguments.choice("pooling", "mean", tuple(_POOLINGS))]
        self._normalize = arguments.flag("normalize", default=True)
        self._tanh = arguments.text("denseActivation").lower() == "tanh"
        self._files = {key: arguments.file(key) for key in ("dense", "layerNorm") if arguments.has(key)}
        self._dense: tuple[Array, Array] | None = None
        self._layer_norm: tuple[Array, Array] | None = None

    def prepare(self) -> None:
        """Loads the tokenizer and the layers behind the model."""
        super().prepare()
        if "dense" in self._files:
            self._dense = _weights(self._files["dense"], "linear.")
        if "layerNorm" in self._files:
            self._layer_norm = _weights(self._files["layerNorm"], "norm.")

    def prompts(self, message: Message) -> Prompts:
        """Texts."""
        return read_prompts(message)

    def answer(self, rows: Sequence[NamedArray], place: int, prompts: Prompts) -> Value:
        """Pools the vectors of the text's tokens."""
        vectors = _hidden(rows, place)
        mask = np.array(prompts.encodings[place].attention_mask, np.float32)
        if vectors.ndim > 2 or (vectors.ndim == 2 and len(vectors) < len(mask)) or not mask.any():
            raise NodeError(f"the model's output for a text is {vectors.shape}; expected {len(mask)} tokens and numbers")
        # One row of numbers is a model that pools itself.
        vector = self._pool(vectors[: len(mask)], mask) if vectors.ndim == 2 else vectors
        return self._finished(vector)

    def _finished(self, vector: Array) -> Array:
        if self._dense is not None:
            weight, bias = self._dense
            vector = weight @ vector + bias
            vector = np.tanh(vector) if self._tanh else vector
        if self._layer_norm is not None:
            weight, bias = self._layer_norm
            vector = (vector - vector.mean()) / np.sqrt(vector.var() + 1e-5) * weight + bias
        return vector / max(float(np.linalg.norm(vector)), _EPSILON) if self._normalize else vector


class SparseRetrieval(TextEmbedding):
    """Answers `{"lexical_weights"}`: how much each token counts, by its number; `returnDenseEmbedding` adds `dense_vecs`."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._with_dense = arguments.flag("returnDenseEmbedding")
        self._linear_file = arguments.file("sparseLinear", "sparse_linear.safetensors")
        self._linear: tuple[Array, Array] | None = None

    def prepare(self) -> None:
        """Loads the layer that weighs tokens, too."""
        super().prepare()
        self._linear = _weights(self._linear_file, "")

    def answer(self, rows: Sequence[NamedArray], place: int, prompts: Prompts) -> Value:
        """Weighs the tokens of the text; what weighs nothing is left out."""
        assert self._linear is not None
        encoding, vectors = prompts.encodings[place], _hidden(rows, place)
        weight, bias = self._linear
        if vectors.ndim != 2 or len(vectors) < len(encoding.ids) or vectors.shape[1:] != weight.shape[1:]:
            expected = f"expected {len(encoding.ids)} tokens and {weight.shape[-1]} numbers"
            raise NodeError(f"the model's output for a text is {vectors.shape}; {expected}")
        weights = (vectors @ weight[0] + bias.reshape(-1)[0]).tolist()
        counted = {str(encoding.ids[i]): weights[i] for i in tokens(encoding) if weights[i] > 0}
        dense = {"dense_vecs": super().answer(rows, place, prompts)} if self._with_dense else {}
        return dense | {"lexical_weights": counted}


def _hidden(rows: Sequence[NamedArray], place: int) -> Array:
    """The vectors of a text's tokens: the output called `last_hidden_state`, else the first."""
    named = [one for one in rows if one.name == _HIDDEN]
    return output_row(named or rows, place).astype(np.float32)


def _mean(vectors: Array, mask: Array) -> Array:
    mean: Array = mask @ vectors / mask.sum()
    return mean


def _mean_sqrt_len(vectors: Array, mask: Array) -> Array:
    mean: Array = mask @ vectors / np.sqrt(mask.sum())
    return mean


def _max(vectors: Array, mask: Array) -> Array:
    largest: Array = vectors[mask > 0].max(axis=0)
    return largest


def _weighted_mean(vectors: Array, mask: Array) -> Array:
    return _mean(vectors, mask * np.arange(1, len(mask) + 1, dtype=np.float32))


def _first(vectors: Array, _mask: Array) -> Array:
    first: Array = vectors[0]
    return first


def _last(vectors: Array, mask: Array) -> Array:
    last: Array = vectors[np.flatnonzero(mask)[-1]]
    return last


_POOLINGS: dict[str, Callable[[Array, Array], Array]] = {
    "mean": _mean,
    "max": _max,
    "cls": _first,
    "mean_sqrt_len": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def _weights(file: Path, layer: str) -> tuple[Array, Array]:
    """Weight and bias of a layer, whose names begin alike, in a file of any of DJL's tensor formats."""
    names = (f"{layer}weight", f"{layer}bias")
    try:
        arrays = registry.NDLIST.decode(file.read_bytes())
    except (InvalidInputError, OSError) as error:
        raise InvalidModelError(f"{file.name}: {error}") from None
    if not isinstance(arrays, dict) or not set(names) <= arrays.keys():
        raise InvalidModelError(f"{file.name}: expected the arrays {' and '.join(names)}")
    return arrays[names[0]].astype(np.float32), arrays[names[1]].astype(np.float32)

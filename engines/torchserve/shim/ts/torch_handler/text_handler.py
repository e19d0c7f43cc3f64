"""What default handlers of text have in common."""

from __future__ import annotations

import re
import string
import unicodedata
from abc import ABC
from pathlib import Path
from typing import Any

import torch

from ts.handler_utils.text_utils import get_tokenizer
from ts.torch_handler.base_handler import BaseHandler, load_weights
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.utils.util import CLEANUP_REGEX

VOCABULARY = "source_vocab.pt"
CONTRACTIONS_PATTERN = re.compile("|".join(map(re.escape, CONTRACTION_MAP)), re.IGNORECASE)


class TextHandler(BaseHandler, ABC):
    """Cleans text and splits it into tokens.

    Attributes:
        source_vocab: Numbers of tokens.
        tokenizer: Splits a text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer = get_tokenizer("basic_english")
        self.input_text: Any = None

    def initialize(self, context: Any) -> None:
        """Loads the model and the vocabulary: the manifest's `sourceVocab`, or `source_vocab.pt`."""
        super().initialize(context)
        name = self.manifest.get("model", {}).get("sourceVocab")
        path = str(Path(context.system_properties["model_dir"], name)) if name else self.get_source_vocab_path(context)
        self.source_vocab = load_weights(path, self.device, trusted=getattr(context, "trusted", False))
        self.initialized = True

    @property
    def lig(self) -> Any:
        """Integrated gradients of the model's `embedding`; captum is only needed for explanations."""
        from captum.attr import LayerIntegratedGradients

        return LayerIntegratedGradients(self.model, self.model.embedding)

    def get_source_vocab_path(self, ctx: Any) -> str:
        """The vocabulary's file.

        Raises:
            FileNotFoundError: There is none.
        """
        file = Path(ctx.system_properties["model_dir"], VOCABULARY)
        if not file.is_file():
            raise FileNotFoundError(f"Missing the source_vocab file: there is no {VOCABULARY} in the archive")
        return str(file)

    def _expand_contractions(self, text: str) -> str:
        return CONTRACTIONS_PATTERN.sub(_expanded, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(str.maketrans("", "", string.punctuation))

    def _remove_puncutation(self, *args: Any, **kwargs: Any) -> str:
        """The name that old handlers know."""
        return self._remove_punctuation(*args, **kwargs)

    def _tokenize(self, text: str) -> list[str]:
        return self.tokenizer(text)

    def get_word_token(self, input_tokens: list[str]) -> list[str]:
        """Tokens without the mark of a word's beginning."""
        return [token.replace("\u0120", "") for token in input_tokens]

    def summarize_attributions(self, attributions: Any) -> Any:
        """Attributions of the tokens, from those of their embeddings."""
        summed = torch.softmax(attributions, dim=-1)
        return summed / torch.norm(summed.sum(dim=-1))


def _expanded(match: re.Match[str]) -> str:
    found = match.group(0)
    return found[0] + CONTRACTION_MAP[found.lower()][1:]

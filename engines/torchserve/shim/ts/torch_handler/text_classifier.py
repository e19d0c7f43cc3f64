"""The default handler `text_classifier`. It takes one text at a time, as in TorchServe."""

from __future__ import annotations

from typing import Any

import torch

from ts.handler_utils.text_utils import ngrams_iterator
from ts.torch_handler.text_handler import TextHandler
from ts.utils.util import map_class_to_label


class TextClassifier(TextHandler):
    """Tells the probability of each class of a text, by label."""

    ngrams = 2

    def preprocess(self, data: Any) -> tuple[Any, list[str]]:
        """Cleans the text of the first row.

        Returns:
            The numbers of its words and runs of words, and the words.
        """
        text = data[0].get("data") or data[0].get("body")
        if isinstance(text, bytes | bytearray):
            text = text.decode()
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        words = self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))
        numbers = [self.source_vocab[token] for token in ngrams_iterator(words, self.ngrams)]
        return torch.as_tensor(numbers, device=self.device), words

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes one text, as a bag that starts at 0."""
        numbers, _ = data
        return super().inference(numbers, torch.as_tensor([0], device=self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        """Makes probabilities of the model's output."""
        return map_class_to_label(torch.softmax(data, dim=-1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: int = 0) -> Any:
        """How much each word matters for a class."""
        from captum.attr import TokenReferenceBase

        numbers, words = text_preprocess
        reference = TokenReferenceBase().generate_reference(numbers.shape[0], device=self.device).squeeze(0)
        attributions = self.lig.attribute(
            numbers,
            reference,
            additional_forward_args=torch.as_tensor([0], device=self.device),
            return_convergence_delta=False,
            target=target,
        )
        return [{"importances": self.summarize_attributions(attributions).tolist(), "words": self.get_word_token(words)}]

"""Text of a batch as it is generated, for handlers of Hugging Face models."""

from __future__ import annotations

from typing import Any

from transformers.generation.streamers import BaseStreamer, TextIteratorStreamer


class TextIteratorStreamerBatch(BaseStreamer):
    """One streamer per row; yields, in turn, what each has got, until one of them ends."""

    def __init__(
        self, tokenizer: Any, batch_size: int, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        self.batch_size = batch_size
        self.streamers = [TextIteratorStreamer(tokenizer, skip_prompt, timeout, **decode_kwargs) for _ in range(batch_size)]

    def put(self, value: Any) -> None:
        """Takes the next tokens of all rows.

        Raises:
            ValueError: Not as many as there are rows.
        """
        if value.shape[0] != self.batch_size:
            raise ValueError(f"tokens for {value.shape[0]} rows, the batch size is {self.batch_size}")
        for row, streamer in enumerate(self.streamers):
            streamer.put(value[row : row + 1])

    def end(self) -> None:
        """There are no more tokens."""
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self) -> TextIteratorStreamerBatch:
        return self

    def __next__(self) -> list[dict[str, str]]:
        return [{"text": next(streamer)} for streamer in self.streamers]

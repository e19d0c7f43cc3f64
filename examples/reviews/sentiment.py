"""A handler with a class, as most archives have one: it weighs the words of `words.json`."""

import json
from pathlib import Path


class Sentiment:
    def initialize(self, context):
        folder = Path(context.system_properties["model_dir"])
        self.weights = json.loads((folder / "words.json").read_text())

    def handle(self, data, context):
        context.metrics.add_counter("Reviews", len(data))
        return [self.judge(bytes(row["body"]).decode()) for row in data]

    def judge(self, text):
        score = sum(self.weights.get(word, 0) for word in text.split())
        return {"label": "positive" if score > 0 else "negative" if score < 0 else "neutral", "score": score}

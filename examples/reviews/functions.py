"""The functions of the workflow: what comes before the models, and what is made of their answers."""

import json
import re


def clean(data, context):
    """Lower-case words of a review, from whatever the client sent."""
    if data is None:
        return None
    texts = [row.get("data") or row.get("body") or "" for row in data]
    texts = [text if isinstance(text, str) else bytes(text).decode("utf-8", "replace") for text in texts]
    return [" ".join(re.findall(r"[a-z']+", text.lower())) for text in texts]


def verdict(data, context):
    """What to do with a review: `row` has the answer of each model under its name."""
    if data is None:
        return None
    answers = []
    for row in data:
        sentiment, topics = json.loads(row["sentiment"]), json.loads(row["topics"])
        urgent = sentiment["label"] == "negative" and "safety" in topics
        answers.append({"sentiment": sentiment, "topics": topics, "queue": "urgent" if urgent else sentiment["label"]})
    return answers

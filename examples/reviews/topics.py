"""A handler with a function: which topics the words of a review belong to."""

TOPICS = {
    "battery": {"battery", "charge", "charging", "power"},
    "screen": {"screen", "display", "glass"},
    "safety": {"burned", "fire", "hot", "smoke", "shock"},
}


def handle(data, context):
    if data is None:
        return None
    words = [set(bytes(row["body"]).decode().split()) for row in data]
    return [[topic for topic, known in TOPICS.items() if known & own] for own in words]

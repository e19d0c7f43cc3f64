"""Whatever a request brings, reading it gives inputs for the model or the caller's error, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.djl import SYNSET, png, request, text_files, write_model

from flowyard.engines.djl.translators.base import Reading
from flowyard.engines.djl.translators.registry import TRANSLATORS, translator_for
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.messages import Message

IMAGES = [
    png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
]
KEYS = st.sampled_from(
    [
        *("inputs", "instances", "question", "paragraph", "context", "text", "text_pair", "key", "value", "query", "texts"),
        *("candidate_labels", "parameters", "multi_label", "hypothesis_template", "image_url"),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.just("data:image/png;base64,AA")
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=9)
TYPES = st.sampled_from(["", "application/json", "text/plain", "text/csv", "image/png", "tensor/ndlist", "tensor/npz; a=b"])


@st.composite
def broken_images(draw):
    image = bytearray(draw(st.sampled_from(IMAGES)))
    for _ in range(draw(st.integers(0, 6))):
        image[draw(st.integers(0, len(image) - 1))] = draw(st.integers(0, 255))
    return bytes(image[: draw(st.integers(0, len(image)))] if draw(st.booleans()) else image)


BODIES = st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()) | broken_images()
REQUESTS = st.builds(request, BODIES, TYPES) | st.builds(
    lambda fields: Message(contents=tuple(fields)), st.lists(st.tuples(KEYS, st.binary(max_size=9)), max_size=3)
)


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, text_files(("no", "yes")) | {"synset.txt": "\n".join(SYNSET)})
    return [translator_for(folder, {}, {"translator": name}) for name in TRANSLATORS]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS)
@example(request(b"\xff", "application/json"))
@example(request(b'{"inputs": "\\ud800"}', "application/json"))
@example(request(b"[" * 5000, "application/json"))
@example(request(b"1e39", "text/csv"))
@example(Message())
def test_any_request(translators, message):
    for translator in translators:
        try:
            reading = translator.read(message)
        except InvalidInputError as error:
            assert error.message
        else:
            assert isinstance(reading, Reading)
            assert all(isinstance(one.array, np.ndarray) for one in reading.inputs)

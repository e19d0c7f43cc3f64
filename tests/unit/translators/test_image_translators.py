"""Translators of images: what a model sees of an image, and what is answered; what is wrong with a request is said."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from support.djl import SYNSET, json_request, png, properties_of, request, write_model

from flowyard.engines.djl.translators.base import NamedArray
from flowyard.engines.djl.translators.pictures import MAX_PIXELS
from flowyard.engines.djl.translators.registry import translator_for
from flowyard.schemas.errors import InvalidInputError, NodeError

RNG = np.random.default_rng(3)
COLOURS = RNG.integers(0, 256, (6, 4, 3), np.uint8)
CLASSIFIER = "ai.djl.modality.cv.translator.ImageClassificationTranslatorFactory"
FEATURES = "ai.djl.modality.cv.translator.ImageFeatureExtractorFactory"


@pytest.fixture
def make(tmp_path):
    write_model(tmp_path, {"synset.txt": "\n".join(SYNSET) + "\n"})

    def build(text="", factory=CLASSIFIER, **arguments):
        return translator_for(tmp_path, properties_of(f"translatorFactory={factory}\n{text}"), arguments)

    return build


def seen(translator, image=COLOURS):
    (one,) = translator.read(request(png(image))).inputs
    return one.array


def answered(translator, *outputs, names=()):
    reading = translator.read(request(png(COLOURS)))
    arrays = [NamedArray(names[i] if names else "", np.asarray(one, np.float32)) for i, one in enumerate(outputs)]
    return json.loads(translator.write(arrays, reading, request(b"")).data)


def test_by_default_an_image_becomes_a_tensor_and_nothing_else(make):
    array = seen(make())
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, (COLOURS.transpose(2, 0, 1) / np.float32(255))[None])


def test_the_usual_steps_of_imagenet(make):
    array = seen(make("resize=8\ncenterCrop=true\nwidth=6\nheight=4\nnormalize=true"), np.full((3, 5, 3), 128, np.uint8))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert array.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(array[0, :, 0, 0], (128 / 255 - mean) / deviation, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("toTensor=false", (1, 6, 4, 3)),
        ("resize=true\nwidth=10\nheight=12", (1, 3, 12, 10)),
        ("resize=True", (1, 3, 224, 224)),
        ("resize=7", (1, 3, 7, 7)),
        ("resize=7, 9", (1, 3, 9, 7)),
        ("resize=7.0,9,NEAREST", (1, 3, 9, 7)),
        ("resizeShort=8", (1, 3, 12, 8)),
        ("resizeShort=8,9", (1, 3, 9, 6)),
        ("resizeShort=-1,12", (1, 3, 12, 8)),
        ("resizeShort=true\nwidth=8\nheight=2", (1, 3, 12, 8)),
        ("centerCrop=true\nwidth=2\nheight=2", (1, 3, 2, 2)),
        ("centerCrop=true\nwidth=9\nheight=2", (1, 3, 2, 4)),
        ("centerFit=true\nwidth=9\nheight=2", (1, 3, 2, 9)),
        ("pad=true", (1, 3, 6, 6)),
        ("pad=114\ntoTensor=false", (1, 6, 6, 3)),
        ("flag=GRAYSCALE", (1, 1, 6, 4)),
        ("flag=GRAYSCALE\nresize=2,5", (1, 1, 5, 2)),
        ("batchifier=none", (3, 6, 4)),
    ],
)
def test_shapes(make, text, shape):
    assert seen(make(text)).shape == shape


def test_padding_fills_the_right_and_the_bottom(make):
    array = seen(make("pad=114\ntoTensor=false"))
    np.testing.assert_array_equal(array[0, :, :4], COLOURS)
    assert np.all(array[0, :, 4:] == 114)


def test_center_crop_takes_the_middle(make):
    array = seen(make("centerCrop=true\ntoTensor=false\nwidth=2\nheight=2"))
    np.testing.assert_array_equal(array[0], COLOURS[2:4, 1:3])


def test_center_fit_puts_into_the_middle(make):
    array = seen(make("centerFit=true\ntoTensor=false\nwidth=7\nheight=6"))
    np.testing.assert_array_equal(array[0, :, 1:5], COLOURS)
    assert not array[0, :, 0].any()
    assert not array[0, :, 5:].any()


@pytest.mark.parametrize(("value", "expected"), [("0,1", COLOURS / 255), ("-1, 1", COLOURS / 128 - 1)])
def test_ranges(make, value, expected):
    np.testing.assert_allclose(seen(make(f"toTensor=false\nrange={value}"))[0], expected, atol=1e-6)


def test_own_mean_and_deviation(make):
    array = seen(make("normalize=0.5,0.5,0.5,0.25,0.25,0.25"))
    np.testing.assert_allclose(array[0], (COLOURS.transpose(2, 0, 1) / 255 - 0.5) / 0.25, atol=1e-5)


def test_gray_has_the_weights_of_601(make):
    array = seen(make("flag=GRAYSCALE\ntoTensor=false"))[0, ..., 0]
    np.testing.assert_array_equal(array, np.floor(COLOURS @ np.array([0.299, 0.587, 0.114]) + 0.5))


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_every_kind_of_image_becomes_three_channels(make, mode):
    buffer = io.BytesIO()
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.fromarray(np.full((5, 4), 255, np.uint16 if mode == "I;16" else np.uint8)).convert(
        mode if mode not in ("I;16", "CMYK") else "I;16" if mode == "I;16" else "L"
    ).convert(mode).save(buffer, kind)
    (one,) = make("toTensor=false").read(request(buffer.getvalue())).inputs
    assert one.array.shape == (1, 5, 4, 3)


def test_an_image_as_a_data_url(make):
    url = "data:image/png;base64," + base64.b64encode(png(COLOURS)).decode()
    (one,) = make("toTensor=false").read(json_request({"image_url": url})).inputs
    np.testing.assert_array_equal(one.array[0], COLOURS)


def test_an_image_in_a_form(make):
    message = request(b"ignored")
    form = type(message)(contents=(("data", png(COLOURS)),))
    assert make().read(form).inputs[0].array.shape == (1, 3, 6, 4)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request(b"no image", "image/png"), "Input is not an Image data type: cannot identify the format"),
        (request(b"", "image/png"), "Input data is empty"),
        (request(png(COLOURS)[:-30]), "Input is not an Image data type"),
        (json_request([1]), "Invalid JsonObject input"),
        (json_request({"url": "x"}), 'Missing "image_url" in json'),
        (json_request({"image_url": 5}), 'Missing "image_url" in json'),
        (json_request({"image_url": "http://example.com/cat.png"}), "nothing is fetched"),
        (json_request({"image_url": "file:///etc/passwd"}), "nothing is fetched"),
        (json_request({"image_url": "/etc/passwd"}), "nothing is fetched"),
        (json_request({"image_url": "data:image/png;base64,@@@"}), "broken base64"),
        (json_request({"image_url": "data:image/png;base64,AAAA"}), "Input is not an Image data type"),
        (request("{", "application/json"), "not valid JSON"),
    ],
)
def test_wrong_requests(make, message, expected):
    with pytest.raises(InvalidInputError, match=expected):
        make().read(message)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(make):
    buffer = io.BytesIO()
    Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(buffer, "PNG")
    with pytest.raises(InvalidInputError, match="pixels are more than"):
        make().read(request(buffer.getvalue()))


def test_a_strip_that_would_be_padded_to_a_huge_square_is_refused(make):
    with pytest.raises(InvalidInputError, match="too long to be padded"):
        make("pad=true").read(request(png(np.zeros((1, 9000), np.uint8))))


def test_the_best_classes_come_first(make):
    assert answered(make(), [[0.2, 0.5, 0.3]]) == [
        {"className": "dog", "probability": pytest.approx(0.5)},
        {"className": "fish", "probability": pytest.approx(0.3)},
        {"className": "cat", "probability": pytest.approx(0.2)},
    ]


def test_the_url_wins_over_the_file(make):
    found = answered(make("topK=3\napplySoftmax=false", topK="1", applySoftmax="true"), [[0, np.log(3), 0]])
    assert found == [{"className": "dog", "probability": pytest.approx(0.6)}]


def test_classes_of_other_files_and_of_the_key(make, tmp_path):
    (tmp_path / "names.txt").write_bytes(b"a\r\nb\r\n")
    assert [one["className"] for one in answered(make("synsetFileName=names.txt"), [[0.1, 0.9]])] == ["b", "a"]
    assert [one["className"] for one in answered(make("synset=x,y z"), [[0.1, 0.9]])] == ["y z", "x"]


def test_too_few_scores(make):
    with pytest.raises(NodeError, match="2 scores for 3 classes"):
        answered(make(), [[0.1, 0.2]])


def test_features_are_a_flat_list(make):
    assert answered(make(factory=FEATURES), [[[1, 2], [3, 4]]]) == [1, 2, 3, 4]


def test_style_transfer_gives_an_image(make):
    translator = make(factory="ai.djl.modality.cv.translator.StyleTransferTranslatorFactory")
    reading = translator.read(request(png(COLOURS)))
    (one,) = reading.inputs
    np.testing.assert_array_equal(one.array[0].transpose(1, 2, 0), COLOURS)
    output = NamedArray("", (one.array / 128 - 1).astype(np.float32))
    answer = translator.write([output], reading, request(b""))
    assert answer.get("content-type") == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.data))), COLOURS)
    with pytest.raises(NodeError, match="expected an image of three colours"):
        translator.write([NamedArray("", np.zeros((1, 2, 4, 4)))], reading, request(b""))


def test_a_score_that_json_does_not_have_is_null(make):
    assert answered(make(factory=FEATURES), [[1, np.nan, np.inf]]) == [1, None, None]

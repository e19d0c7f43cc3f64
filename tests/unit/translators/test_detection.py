"""Detectors and segmentation: boxes, what covers what, masks."""

import json

import numpy as np
import pytest
from support.djl import SYNSET, png, properties_of, request, write_model

from flowyard.engines.djl.translators.base import NamedArray
from flowyard.engines.djl.translators.detection import best_boxes
from flowyard.engines.djl.translators.registry import translator_for
from flowyard.schemas.errors import NodeError

PACKAGE = "ai.djl.modality.cv.translator"
IMAGE = np.zeros((10, 20, 3), np.uint8)


@pytest.fixture
def answer(tmp_path):
    write_model(tmp_path, {"synset.txt": "\n".join(SYNSET)})

    def of(name, text, *outputs):
        translator = translator_for(tmp_path, properties_of(f"translatorFactory={PACKAGE}.{name}Factory\n{text}"), {})
        reading = translator.read(request(png(IMAGE)))
        arrays = [NamedArray("", np.asarray(one, np.float32)) for one in outputs]
        return json.loads(translator.write(arrays, reading, request(b"")).data)

    return of


def objects(found):
    return [(one["className"], round(one["probability"], 4), [round(x, 4) for x in one["boundingBox"]["rect"]]) for one in found]


def test_ssd_takes_what_is_over_the_threshold(answer):
    outputs = [[[0, 1, -1, 2]], [[0.3, 0.9, 0.99, 0.1]], [[[0, 0, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0, 0, 1, 1]]]]
    found = objects(answer("SingleShotDetectionTranslator", "", *outputs))
    assert found == [("dog", 0.9, [0.1, 0.2, 0.3, 0.4]), ("cat", 0.3, [0, 0, 0.5, 0.5])]
    assert objects(answer("SingleShotDetectionTranslator", "threshold=0.5", *outputs)) == found[:1]


def test_ssd_in_pixels(answer):
    outputs = [[[1]], [[0.9]], [[[10, 20, 30, 40]]]]
    found = answer("SingleShotDetectionTranslator", "applyRatio=true\nwidth=100\nheight=200", *outputs)
    assert objects(found) == [("dog", 0.9, [0.1, 0.1, 0.3, 0.2])]


def test_yolo_is_cut_off_at_the_edges(answer):
    outputs = [[[[1]]], [[[0.9]]], [[[-10, 20, 150, 40]]]]
    assert objects(answer("YoloTranslator", "width=100\nheight=200", *outputs)) == [("dog", 0.9, [0, 0.1, 1, 0.2])]


def v5(*rows):
    return [list(rows)]


def test_yolo_v5_keeps_the_best_of_what_covers_each_other(answer):
    rows = v5(
        [50, 50, 20, 20, 1, 0.1, 0.8, 0.1],
        [51, 50, 20, 20, 1, 0.1, 0.9, 0.1],
        [51, 50, 20, 20, 1, 0.7, 0.1, 0.1],
        [10, 10, 4, 4, 0.5, 0.1, 0.1, 0.9],
        [10, 10, 4, 4, 0.1, 0.1, 0.1, 0.9],
    )
    assert objects(answer("YoloV5Translator", "", rows)) == [
        ("dog", 0.9, [41, 40, 61, 60]),
        ("cat", 0.7, [41, 40, 61, 60]),
        ("fish", 0.45, [8, 8, 12, 12]),
    ]
    assert len(answer("YoloV5Translator", "nmsThreshold=0.95", rows)) == 4


def test_yolo_v5_as_part_of_the_image(answer):
    rows = v5([50, 50, 20, 20, 1, 0.1, 0.8, 0.1])
    found = answer("YoloV5Translator", "applyRatio=true\nwidth=100\nheight=200", rows)
    assert objects(found) == [("dog", 0.8, [0.4, 0.2, 0.6, 0.3])]


def test_yolo_v5_without_the_padding_of_center_fit(answer):
    rows = v5([50, 50, 20, 10, 1, 0.1, 0.8, 0.1])
    found = answer("YoloV5Translator", "centerFit=true\nwidth=100\nheight=100", rows)
    # The image is 20 x 10, so that 40 and 45 pixels lie around it.
    assert objects(found) == [("dog", 0.8, [0, 0, 1, 1])]


def test_yolo_v8_has_a_column_per_box(answer):
    columns = np.array([[50, 50, 20, 20, 0.1, 0.8, 0.1], [5, 5, 2, 2, 0.1, 0.1, 0.15]], np.float32).T[None]
    assert objects(answer("YoloV8Translator", "", columns)) == [("dog", 0.8, [40, 40, 60, 60])]
    assert objects(answer("YoloV8Translator", "threshold=0.12\nmaxBox=1", columns)) == [("fish", 0.15, [4, 4, 6, 6])]


def test_semantic_segmentation_says_the_class_of_each_pixel(answer):
    scores = np.zeros((1, 4, 2, 3), np.float32)
    scores[0, 1, 0, 0] = scores[0, 2, 1, 2] = 1
    scores[0, 3] = 9
    found = answer("SemanticSegmentationTranslator", "", [[0]], scores)
    assert found == {"classes": list(SYNSET), "mask": [[1, 0, 0], [0, 0, 2]]}


def test_instance_segmentation_has_masks(answer):
    # An image of 20 x 10 becomes one of 1000 x 500: its long edge is the limit.
    outputs = [[[2, -1]], [[0.9, 1]], [[[100, 50, 500, 250], [0, 0, 1, 1]]], [[[[1, 0]], [[0, 0]]]]]
    found = answer("InstanceSegmentationTranslator", "", *outputs)
    assert objects(found) == [("fish", 0.9, [0.1, 0.1, 0.5, 0.5])]
    assert found[0]["boundingBox"]["mask"] == [[1, 0]]


def test_yolo_segmentation_puts_masks_together(answer):
    boxes = np.array([[50, 100, 20, 40, 0.1, 0.8, 0.1, 1, -2], [52, 100, 20, 40, 0.1, 0.7, 0.1, 1, 1]], np.float32).T[None]
    prototypes = np.array([[[1, 1], [0, 0]], [[0, 1], [0, -1]]], np.float32)[None]
    (found,) = answer("YoloSegmentationTranslator", "width=100\nheight=200", boxes, prototypes)
    assert objects([found]) == [("dog", 0.8, [0.4, 0.4, 0.6, 0.6])]
    assert (found["boundingBox"]["mask"], found["boundingBox"]["fullImageMask"]) == ([[1, 0], [0, 1]], True)


def test_the_joints_of_one_person(answer):
    maps = np.zeros((1, 3, 4, 5), np.float32)
    maps[0, 0, 2, 1], maps[0, 1, 0, 0], maps[0, 2, 3, 4] = 0.75, 0.125, 0.5
    assert answer("SimplePoseTranslator", "", maps) == {
        "joints": [{"x": 0.2, "y": 0.5, "confidence": 0.75}, {"x": 0.8, "y": 0.75, "confidence": 0.5}]
    }


def test_the_joints_of_several_people(answer):
    rows = [
        [50, 50, 20, 20, 0.9, 25, 50, 0.5],
        [51, 50, 20, 20, 0.8, 1, 1, 1],
        [5, 5, 2, 2, 0.5, 5, 5, 1],
        [9, 9, 9, 9, 0.1, 1, 1, 1],
    ]
    found = answer("YoloPoseTranslator", "width=100\nheight=200", np.array(rows, np.float32).T[None])
    assert [one["joints"][0]["y"] for one in found] == [0.25, pytest.approx(0.025)]
    assert found[0] == {"joints": [{"x": 0.25, "y": 0.25, "confidence": 0.5}]}


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("SingleShotDetectionTranslator", [[[0]], [[1]]], "2 outputs; its translator needs 3"),
        ("SingleShotDetectionTranslator", [[[0]], [[1]], [[[1, 2]]]], "four numbers of each box"),
        ("SingleShotDetectionTranslator", [[[7]], [[1]], [[[1, 2, 3, 4]]]], "class 7; there are 3"),
        ("YoloTranslator", [[[0]], [[1, 2]], [[[1, 2, 3, 4]]]], "four numbers of each box"),
        ("YoloV5Translator", [[[1, 2, 3]]], "5 \\+ 3 classes"),
        ("YoloV8Translator", [[[1, 2, 3]]], "expected 4 \\+ 3 classes"),
        ("YoloV8Translator", [5], "has no rows"),
        ("SemanticSegmentationTranslator", [[[1]]], "needs 2"),
        ("SemanticSegmentationTranslator", [[[1]], [[1]]], "expected 3 classes, height and width"),
        ("YoloSegmentationTranslator", [[[1, 2]], [[[[1]]]]], "prototypes of masks"),
        ("SimplePoseTranslator", [[1]], "expected joints, height and width"),
        ("YoloPoseTranslator", [[[[1]] * 9]], "3 for each joint"),
        ("InstanceSegmentationTranslator", [[[0]], [[1]], [[[1, 2, 3, 4]]], [[]]], "expected a mask"),
        ("InstanceSegmentationTranslator", [[[5]], [[1]], [[[1, 2, 3, 4]]], [[[[1]]]]], "classes up to 5"),
    ],
)
def test_outputs_of_another_kind_of_model(answer, name, outputs, message):
    with pytest.raises(NodeError, match=message):
        answer(name, "", *outputs)


def test_the_best_box_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 5, 5], [0, 0, 0, 0]], np.float64)
    assert best_boxes(boxes, np.array([0.5, 0.9, 0.7, 0.1]), 0.5) == [1, 2, 3]
    assert best_boxes(np.zeros((0, 4)), np.zeros(0), 0.5) == []

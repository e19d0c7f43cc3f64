"""Which translator a model has: by the class that DJL calls it, or by what the model is for (DJL §2.10, §4.1)."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import Translator
from flowyard.engines.djl.translators.detection import SingleShotDetection, Yolo, YoloV5, YoloV8
from flowyard.engines.djl.translators.images import ImageClassification, ImageFeatures, StyleTransfer
from flowyard.engines.djl.translators.pairs import CrossEncoder, ZeroShotClassification
from flowyard.engines.djl.translators.poses import SimplePose, YoloPose
from flowyard.engines.djl.translators.question_answering import QuestionAnswering
from flowyard.engines.djl.translators.segmentation import InstanceSegmentation, SemanticSegmentation, YoloSegmentation
from flowyard.engines.djl.translators.tensors import TensorTranslator
from flowyard.engines.djl.translators.text_classification import FillMask, TextClassification
from flowyard.engines.djl.translators.text_embedding import SparseRetrieval, TextEmbedding
from flowyard.engines.djl.translators.token_classification import TokenClassification
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.properties import Property

Make: TypeAlias = Callable[[Arguments], Translator]

_IMAGES = "ai.djl.modality.cv.translator"
_TEXTS = "ai.djl.huggingface.translator"
_FACTORY = "Factory"
#: By the name of the class without `Factory` at its end.
TRANSLATORS: dict[str, Make] = {
    "ai.djl.translate.NoopServingTranslator": TensorTranslator,
    f"{_IMAGES}.ImageClassificationTranslator": ImageClassification,
    f"{_IMAGES}.ImageFeatureExtractor": ImageFeatures,
    f"{_IMAGES}.SingleShotDetectionTranslator": SingleShotDetection,
    f"{_IMAGES}.YoloTranslator": Yolo,
    f"{_IMAGES}.YoloV5Translator": YoloV5,
    f"{_IMAGES}.YoloV8Translator": YoloV8,
    f"{_IMAGES}.YoloSegmentationTranslator": YoloSegmentation,
    f"{_IMAGES}.YoloPoseTranslator": YoloPose,
    f"{_IMAGES}.SimplePoseTranslator": SimplePose,
    f"{_IMAGES}.StyleTransferTranslator": StyleTransfer,
    f"{_IMAGES}.SemanticSegmentationTranslator": SemanticSegmentation,
    f"{_IMAGES}.InstanceSegmentationTranslator": InstanceSegmentation,
    f"{_TEXTS}.TextClassificationTranslator": TextClassification,
    f"{_TEXTS}.TextEmbeddingTranslator": TextEmbedding,
    f"{_TEXTS}.QuestionAnsweringTranslator": QuestionAnswering,
    f"{_TEXTS}.TokenClassificationTranslator": TokenClassification,
    f"{_TEXTS}.FillMaskTranslator": FillMask,
    f"{_TEXTS}.CrossEncoderTranslator": CrossEncoder,
    f"{_TEXTS}.ZeroShotClassificationTranslator": ZeroShotClassification,
}
#: Those that look at what the model is for, as when no class is named.
_BY_APPLICATION = ("ai.djl.translate.DefaultTranslator", "ai.djl.translate.ServingTranslator")
#: Those that become rerankers by the key `reranking`.
_RERANKING = (TextClassification, TextEmbedding)

APPLICATIONS: dict[str, Make] = {
    "cv/image_classification": ImageClassification,
    "nlp/fill_mask": FillMask,
    "nlp/question_answer": QuestionAnswering,
    "nlp/text_classification": TextClassification,
    "nlp/text_embedding": TextEmbedding,
    "nlp/token_classification": TokenClassification,
    "nlp/zero_shot_classification": ZeroShotClassification,
}
_OTHER_SPELLINGS = {
    "question_answer": "nlp/question_answer",
    "question_answering": "nlp/question_answer",
    "sentence_similarity": "nlp/text_embedding",
}
#: What DJL knows, too, but has no translator of its own for: such models take tensors.
_OF_TENSORS = frozenset(
    {
        *("undefined", "cv", "nlp", "tabular", "audio", "timeseries/forecasting"),
        *("tabular/linear_regression", "tabular/softmax_regression"),
        *("cv/object_detection", "cv/semantic_segmentation", "cv/instance_segmentation", "cv/mask_generation"),
        *("cv/pose_estimation", "cv/action_recognition", "cv/word_recognition", "cv/image_generation"),
        *("cv/image_enhancement", "cv/zero_shot_image_classification", "cv/zero_shot_object_detection"),
        *("nlp/sentiment_analysis", "nlp/word_embedding", "nlp/text_generation", "nlp/machine_translation"),
        "nlp/multiple_choice",
    }
)
_JAVA = (".jar", ".java", ".class")
_ADVICE = "Java code is not run; serve the model with a model.py (engine=Python) or with one of the translators here"


def check_translator(folder: Path, properties: Mapping[str, Property], arguments: Mapping[str, str]) -> None:
    """Refuses what is not supported. It runs in the server process: no library is imported, and nothing of the model executed.

    Args:
        folder: The model's folder, with its serving.properties.
        properties: The entries of that file by key.
        arguments: The arguments of the model's URL (`?translatorFactory=…&topK=1`), which win.

    Raises:
        InvalidModelError: An unknown class or application, a missing file, or a bad value; the message names file, line and key.
    """
    translator = _make(folder, properties, arguments)
    for module, extra in translator.needs:
        if importlib.util.find_spec(module) is None:
            raise InvalidModelError(f"its translator needs {module}, which is not installed (pip install 'flowyard[{extra}]')")


def translator_for(folder: Path, properties: Mapping[str, Property], arguments: Mapping[str, str]) -> Translator:
    """Makes a model's translator, ready to use. Runs in a worker process.

    Args:
        folder: The model's folder.
        properties: The entries of its serving.properties by key.
        arguments: The arguments of its URL, which win.

    Returns:
        The translator.

    Raises:
        InvalidModelError: As `check_translator`, or a file of the model is broken.
    """
    translator = _make(folder, properties, arguments)
    try:
        translator.prepare()
    except ImportError as error:
        extras = ", ".join(f"'flowyard[{extra}]'" for _, extra in translator.needs)
        raise InvalidModelError(f"its translator cannot be prepared: {error} (pip install {extras})") from None
    return translator


def _make(folder: Path, properties: Mapping[str, Property], query: Mapping[str, str]) -> Translator:
    arguments = Arguments(folder, properties, query)
    if arguments.has("blockFactory"):
        raise arguments.refusal("blockFactory", _ADVICE)
    make = _named(arguments) or _of_application(arguments)
    if arguments.flag("reranking") and make in _RERANKING:
        make = CrossEncoder
    elif make is TextEmbedding and arguments.flag("sparse"):
        make = SparseRetrieval
    return make(arguments)


def _named(arguments: Arguments) -> Make | None:
    """The translator whose class is named; `None` where none is, and what the model is for decides."""
    for key in ("translatorFactory", "translator"):
        name = arguments.text(key)
        if not name:
            continue
        arguments.chosen_by = key
        base = name.removesuffix(_FACTORY)
        if base in _BY_APPLICATION:
            return None
        if base not in TRANSLATORS:
            raise arguments.refusal(key, _unknown(name))
        return TRANSLATORS[base]
    code = _java_code(arguments.folder)
    if code is not None:
        raise InvalidModelError(f"{code.relative_to(arguments.folder)}: {_ADVICE} (key translatorFactory)")
    return None


def _java_code(folder: Path) -> Path | None:
    """Code that DJL would look for a translator in."""
    for name in ("libs", "lib"):
        found = [path for path in sorted((folder / name).rglob("*")) if path.suffix in _JAVA]
        if found:
            return found[0]
    return None


def _unknown(name: str) -> str:
    short = {base.rpartition(".")[2]: base for base in TRANSLATORS}
    near = difflib.get_close_matches(name.rpartition(".")[2].removesuffix(_FACTORY), short, n=1, cutoff=0.8)
    if near:
        return f"{name!r} is not a supported class; did you mean {_factory(short[near[0]])}?"
    known = ", ".join(map(_factory, TRANSLATORS))
    return f"{name!r} is not a supported class. {_ADVICE}: {known}"


def _factory(base: str) -> str:
    return base + _FACTORY


def _of_application(arguments: Arguments) -> Make:
    key = "application" if arguments.has("application") else "task"
    name = arguments.text(key)
    if not name:
        return TensorTranslator
    arguments.chosen_by = key
    found = name.lower().replace("-", "_") if key == "task" else name.lower()
    found = _OTHER_SPELLINGS.get(found, found)
    full = next((one for one in (found, f"cv/{found}", f"nlp/{found}") if one in APPLICATIONS or one in _OF_TENSORS), None)
    if full is None:
        near = difflib.get_close_matches(found, [*APPLICATIONS, *_OF_TENSORS], n=1)
        fix = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(APPLICATIONS)
        raise arguments.refusal(key, f"unknown application {name!r}{fix} Those with a translator are {known}")
    return APPLICATIONS.get(full, TensorTranslator)

"""What a registration refuses, by file, line and key; and that it needs no library for that."""

import subprocess
import sys
import textwrap

import pytest
from support.djl import SYNSET, properties_of, text_files, write_model

from flowyard.engines.djl.translators.pairs import CrossEncoder
from flowyard.engines.djl.translators.registry import (
    APPLICATIONS,
    TRANSLATORS,
    _make,
    check_translator,
    translator_for,
)
from flowyard.engines.djl.translators.tensors import TensorTranslator
from flowyard.schemas.errors import InvalidModelError

IMAGES = "translatorFactory=ai.djl.modality.cv.translator."
CLASSIFIER = IMAGES + "ImageClassificationTranslatorFactory\n"
TEXTS = "translatorFactory=ai.djl.huggingface.translator."


@pytest.fixture
def complete(tmp_path):
    files = text_files(("no", "yes"), label2id={"entailment": 1})
    return write_model(tmp_path, files | {"synset.txt": "\n".join(SYNSET)})


@pytest.mark.parametrize("base", TRANSLATORS)
@pytest.mark.parametrize("suffix", ["", "Factory"])
@pytest.mark.parametrize("key", ["translator", "translatorFactory"])
def test_every_class_is_known_by_either_key(complete, base, suffix, key):
    check_translator(complete, properties_of(f"{key} = {base}{suffix}"), {})
    check_translator(complete, {}, {key: base + suffix})
    assert type(translator_for(complete, {}, {key: base})) is TRANSLATORS[base]


@pytest.mark.parametrize("application", APPLICATIONS)
def test_every_application_has_its_translator(complete, application):
    for spelling in (application, application.partition("/")[2]):
        assert type(_make(complete, properties_of(f"application={spelling}"), {})) is APPLICATIONS[application]
    task = application.partition("/")[2].replace("_", "-").upper()
    assert type(_make(complete, properties_of(f"task={task}"), {})) is APPLICATIONS[application]


@pytest.mark.parametrize("name", ["question_answering", "sentence_similarity"])
def test_other_spellings(complete, name):
    assert type(_make(complete, properties_of(f"application={name}"), {})) is not TensorTranslator


@pytest.mark.parametrize(
    "text", ["", "engine=PyTorch", "application=undefined", "application=cv/object_detection", "task=text-generation"]
)
def test_the_others_take_tensors(tmp_path, text):
    assert type(_make(tmp_path, properties_of(text), {})) is TensorTranslator


def test_a_factory_that_looks_at_the_application(complete):
    properties = properties_of("translatorFactory=ai.djl.translate.ServingTranslatorFactory\napplication=nlp/fill_mask")
    assert type(_make(complete, properties, {})) is APPLICATIONS["nlp/fill_mask"]


@pytest.mark.parametrize("name", ["TextClassification", "TextEmbedding"])
def test_reranking(complete, name):
    assert type(_make(complete, properties_of(f"{TEXTS}{name}TranslatorFactory\nreranking=true"), {})) is CrossEncoder


PLACE = "serving.properties:2: key "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "#\ntranslatorFactory=com.example.MyFactory",
            PLACE + "translatorFactory: 'com.example.MyFactory' is not a supported class",
        ),
        ("#\ntranslator=com.example.MyTranslator", "Java code is not run"),
        ("#\ntranslator=com.example.MyTranslator", "ai.djl.huggingface.translator.TextEmbeddingTranslatorFactory"),
        (
            "#\ntranslatorFactory=ai.djl.modality.cv.ImageClassificationTranslatorFactory",
            "did you mean ai.djl.modality.cv.translator.ImageClassificationTranslatorFactory?",
        ),
        ("#\nblockFactory=ai.djl.basicmodelzoo.MlpBlockFactory", PLACE + "blockFactory: Java code is not run"),
        (
            "#\napplication=cv/image_classificatoin",
            PLACE + "application: unknown application .* did you mean cv/image_classification?",
        ),
        ("#\ntask=sing", PLACE + "task: unknown application 'sing'.*cv/image_classification, nlp/fill_mask"),
        ("#\nbatchifier=com.example.Mine", PLACE + "batchifier: expected one of none, stack, padding, got 'com.example.Mine'"),
        (CLASSIFIER + "topK=many", PLACE + "topK: expected a number from 1 to 100000, got 'many'"),
        (CLASSIFIER + "topK=0", PLACE + "topK: expected a number"),
        (CLASSIFIER + "topK=1.5", PLACE + "topK: expected a whole number, got '1.5'"),
        (CLASSIFIER + "topK=nan", PLACE + "topK: expected a number"),
        (CLASSIFIER + "applySoftmax=yes", PLACE + "applySoftmax: expected one of true, false, got 'yes'"),
        (CLASSIFIER + "width=1e9", PLACE + "width: expected a number from 1 to 8192"),
        (CLASSIFIER + "height=-1", PLACE + "height"),
        (CLASSIFIER + "flag=RGB", PLACE + "flag: expected one of COLOR, GRAYSCALE"),
        (CLASSIFIER + "resize=big", PLACE + "resize: expected a number"),
        (CLASSIFIER + "resize=1,2,3,4", PLACE + "resize: expected true, false or up to two numbers"),
        (CLASSIFIER + "resize=1,2,LANCZOS", PLACE + "resize: expected one of NEAREST, BILINEAR, AREA, BICUBIC, got 'lanczos'"),
        (CLASSIFIER + "resizeShort=-1", PLACE + "resizeShort: expected a short edge"),
        (CLASSIFIER + "pad=blue", PLACE + "pad: expected a number from 0 to 255"),
        (CLASSIFIER + "normalize=1,2,3", PLACE + "normalize: expected true, false, or 3 means"),
        (CLASSIFIER + "normalize=1,2,3,0,1,1", PLACE + "normalize: .* none of which is 0"),
        (CLASSIFIER + "normalize=true\ntoTensor=false", PLACE + "normalize: it needs toTensor=true"),
        (CLASSIFIER + "range=0,255", PLACE + "range: expected 0,1 or -1,1, got '0,255'"),
        (CLASSIFIER + "synsetUrl=http://example.com/synset.txt", PLACE + "synsetUrl: classes elsewhere are not fetched"),
        (CLASSIFIER + "synsetFileName=absent.txt", PLACE + "synsetFileName: 'absent.txt' is not in the model's folder"),
        (CLASSIFIER + "synsetFileName=../../etc/passwd", PLACE + "synsetFileName: expected a path inside of the model's folder"),
        (CLASSIFIER + "synsetFileName=/etc/passwd", PLACE + "synsetFileName: expected a path inside of the model's folder"),
        (CLASSIFIER + "synsetFileName=binary", PLACE + "synsetFileName: binary is no UTF-8 text"),
        (CLASSIFIER + "synsetFileName=libs2", PLACE + "synsetFileName: libs2 cannot be read"),
        (IMAGES + "YoloV5TranslatorFactory\noutputType=DETECT", PLACE + "outputType: expected AUTO or BOX"),
        (IMAGES + "YoloV5TranslatorFactory\nthreshold=2", PLACE + "threshold: expected a number from 0 to 1"),
        (TEXTS + "TextEmbeddingTranslatorFactory\npooling=sum", PLACE + "pooling: expected one of mean, max, cls"),
        (TEXTS + "TextEmbeddingTranslatorFactory\nsparse=true", "needs the file sparse_linear.safetensors"),
        (TEXTS + "TextEmbeddingTranslatorFactory\ndense=absent", PLACE + "dense: 'absent' is not in the model's folder"),
        (TEXTS + "FillMaskTranslatorFactory\ntruncation=maybe", PLACE + "truncation: expected one of true, false"),
        (TEXTS + "FillMaskTranslatorFactory\npadding=maybe", PLACE + "padding: expected one of true, longest"),
        (TEXTS + "FillMaskTranslatorFactory\nmaxLength=long", PLACE + "maxLength"),
        (
            TEXTS + "FillMaskTranslatorFactory\ntokenizer=bert-base-uncased",
            PLACE + "tokenizer: tokenizers of the hub are not fetched",
        ),
        (TEXTS + "FillMaskTranslatorFactory\ntokenizerPath=../..", PLACE + "tokenizerPath: expected a path inside"),
        (
            TEXTS + "TokenClassificationTranslatorFactory\naggregation_strategy=best",
            PLACE + "aggregation_strategy: expected one of",
        ),
    ],
)
def test_refusals(complete, text, expected):
    write_model(complete, {"binary": b"\xff\xfe\xfd", "libs2/x": ""})
    with pytest.raises(InvalidModelError, match=expected.replace("?", r"\?")):
        check_translator(complete, properties_of(text), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#\napplication=cv/image_classification", PLACE + "application: cv/image_classification needs the file synset.txt"),
        (CLASSIFIER, "serving.properties:1: key translatorFactory: .* needs the file synset.txt"),
        ("#\napplication=nlp/text_embedding", PLACE + "application: nlp/text_embedding needs the file tokenizer.json"),
    ],
)
def test_missing_files(tmp_path, text, expected):
    with pytest.raises(InvalidModelError, match=expected):
        check_translator(tmp_path, properties_of(text), {})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "needs the file config.json"),
        ("[", "config.json: "),
        ("[]", "config.json: "),
        ("{}", 'config.json: expected "id2label"'),
        ('{"id2label": {}}', 'config.json: expected "id2label"'),
        ('{"id2label": {"1": "x"}}', "config.json: \"id2label\" has 1 classes, but none of number '0'"),
    ],
)
def test_broken_configurations(complete, config, expected):
    (complete / "config.json").unlink()
    write_model(complete, {"config.json": config} if config is not None else {})
    with pytest.raises(InvalidModelError, match=expected):
        check_translator(complete, properties_of("application=text_classification"), {})


def test_an_argument_is_named_as_such(complete):
    with pytest.raises(InvalidModelError, match="argument topK: expected a number"):
        check_translator(complete, properties_of(CLASSIFIER + "topK=3"), {"topK": "x"})


@pytest.mark.parametrize("name", ["libs/classes/MyTranslator.java", "lib/my.jar", "libs/classes/a/B.class"])
def test_java_code_is_not_run(tmp_path, name):
    write_model(tmp_path, {name: ""})
    with pytest.raises(InvalidModelError, match=f"{name}: Java code is not run"):
        check_translator(tmp_path, {}, {})


def test_java_code_beside_a_translator_that_is_named_does_not_matter(complete):
    write_model(complete, {"libs/x.jar": ""})
    check_translator(complete, properties_of(CLASSIFIER), {})


def test_no_library_is_imported_and_its_absence_is_noticed(complete):
    code = textwrap.dedent(f"""
        import importlib.util, sys
        from pathlib import Path
        from flowyard.engines.djl.translators import registry
        from flowyard.schemas.errors import InvalidModelError
        for application in registry.APPLICATIONS:
            registry.check_translator(Path({str(complete)!r}), {{}}, {{"application": application}})
        print([name for name in ("torch", "onnxruntime", "PIL", "tokenizers", "transformers") if name in sys.modules])
        importlib.util.find_spec = lambda name: None
        try:
            registry.check_translator(Path({str(complete)!r}), {{}}, {{"application": "image_classification"}})
        except InvalidModelError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        "its translator needs PIL, which is not installed (pip install 'flowyard[image]')",
    ]


def test_a_broken_tokenizer_is_noticed_when_it_is_loaded(complete):
    write_model(complete, {"tokenizer.json": "{}"})
    check_translator(complete, properties_of("application=fill_mask"), {})
    with pytest.raises(InvalidModelError, match=r"tokenizer\.json: "):
        translator_for(complete, properties_of("application=fill_mask"), {})

"""Translators of texts, with a real tokenizer: what a model gets, what is answered, what is wrong with a request."""

import json

import numpy as np
import pytest
from support.djl import json_request, properties_of, request, text_files, write_model

from flowyard.engines.djl.translators.base import NamedArray
from flowyard.engines.djl.translators.registry import translator_for
from flowyard.schemas.codecs.registry import NDLIST, SAFETENSORS
from flowyard.schemas.errors import InvalidInputError, InvalidModelError, NodeError

PACKAGE = "ai.djl.huggingface.translator"
LABELS = ("negative", "positive")
PAD, UNKNOWN, CLS, SEP, MASK = range(5)


@pytest.fixture
def make(tmp_path):
    def build(name, text="", labels=LABELS, **config):
        write_model(tmp_path, text_files(labels, **config))
        return translator_for(tmp_path, properties_of(f"translatorFactory={PACKAGE}.{name}TranslatorFactory\n{text}"), {})

    return build


def arrays(translator, message):
    return [one.array.tolist() for one in translator.read(message).inputs]


def answer(translator, message, *outputs, names=()):
    reading = translator.read(message)
    named = [NamedArray(names[i] if names else "", np.asarray(one, np.float32)) for i, one in enumerate(outputs)]
    written = translator.write(named, reading, message)
    assert written.get("content-type") == "application/json"
    return json.loads(written.data)


def length(translator, message):
    return translator.read(message).inputs[0].array.shape[1]


TEXT = request("the values of a list", "text/plain")
SHORT = "the list"
LONG = "the values of a list are the same"


def test_a_text_becomes_numbers_and_a_mask(make):
    ids, mask = arrays(make("TextClassification"), TEXT)
    assert (ids[0][0], ids[0][-1]) == (CLS, SEP)
    assert mask == [[1] * len(ids[0])]
    assert len(ids[0]) == 7
    assert UNKNOWN not in ids[0]


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (request("a", "text/plain"), 1),
        (request("a"), 1),
        (json_request("a"), 1),
        (json_request(5), 1),
        (json_request({"inputs": "a"}), 1),
        (json_request({"inputs": ["a", "b c"]}), 2),
        (json_request(["a", "b c", True]), 3),
        (request(text="a"), 1),
    ],
)
def test_forms_of_requests(make, message, count):
    ids, mask = arrays(make("TextClassification"), message)
    assert (len(ids), len(mask)) == (count, count)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request(b"\xff"), "not UTF-8: byte 0"),
        (json_request({}), 'Missing "inputs" in json.'),
        (json_request({"text": "a"}), 'Missing "inputs" in json.'),
        (json_request(None), 'Missing "inputs" in json.'),
        (json_request([]), "expected 1 to 10000 texts, got 0"),
        (json_request([None]), r"inputs\[0\]: expected a text, got null"),
        (json_request({"inputs": {"a": 1}}), "inputs: expected a text, got dict"),
        (json_request([["a"]]), r"inputs\[0\]: expected a text, got list"),
        (json_request(["a"] * 10_001), "got 10001"),
        (request("{", "application/json"), "not valid JSON"),
        (type(TEXT)(), "Input data is empty"),
    ],
)
@pytest.mark.parametrize("name", ["TextClassification", "TextEmbedding", "TokenClassification", "FillMask"])
def test_wrong_requests(make, name, message, expected):
    with pytest.raises(InvalidInputError, match=expected):
        make(name).read(message)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ["a" * 3_000_000] * 7),
        ("truncation=false", ["a" * 1_000_001, *["b"] * 9]),
        ("modelMaxLength=100000", ["a " * 100_000, *["b"] * 100]),
    ],
)
def test_texts_that_are_too_much(make, text, value):
    with pytest.raises(InvalidInputError, match="are too much"):
        make("TextClassification", text).read(json_request(value))


def test_one_long_text_that_is_compared_with_many(make):
    asked = {"text": "a " * 10_000, "candidate_labels": [str(n) for n in range(2_000)]}
    with pytest.raises(InvalidInputError, match="are too much"):
        make("ZeroShotClassification").read(json_request(asked))


def test_several_texts_become_as_long_as_the_longest(make):
    ids, mask = arrays(make("TextClassification"), json_request([SHORT, LONG]))
    assert len(ids[0]) == len(ids[1])
    assert ids[0][4:] == [PAD] * (len(ids[0]) - 4)
    assert mask[0] == [1] * 4 + [0] * (len(ids[0]) - 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 7),
        ("maxLength=5", 5),
        ("maxLength=5\nmodelMaxLength=4", 4),
        ("maxLength=5\ntruncation=false", 7),
        ("maxLength=5\ntruncation=do_not_truncate", 7),
        ("padding=max_length\nmaxLength=9", 9),
        ("padding=max_length", 512),
        ("padding=max_length\nmaxLength=9\npadToMultipleOf=8", 16),
        ("padding=max_length\nmaxLength=9\nmodelMaxLength=12\npadToMultipleOf=8", 8),
        ("padToMultipleOf=8", 8),
        ("padding=false\npadToMultipleOf=8", 7),
        ("addSpecialTokens=false", 5),
        ("doLowerCase=true", 7),
        ("tokenizerPath=tokenizer.json", 7),
        ("tokenizerPath=.", 7),
    ],
)
def test_lengths(make, text, expected):
    assert length(make("TextClassification", text), TEXT) == expected


@pytest.mark.parametrize(("size", "limit"), [(600, 512), (3, 5)])
def test_a_long_text_is_cut_off(make, size, limit):
    assert length(make("TextClassification"), request("a " * size)) == limit


def test_texts_of_several_lengths_that_must_not_be_filled_up(make):
    with pytest.raises(InvalidInputError, match="several lengths"):
        make("TextClassification", "padding=false").read(json_request([SHORT, LONG]))


def test_a_stride_that_is_longer_than_the_text(make):
    with pytest.raises(InvalidModelError, match="maxLength 4 and stride 9"):
        make("TextClassification", "maxLength=4\nstride=9")


def test_changes_before_encoding(make):
    plain = arrays(make("TextClassification", "addSpecialTokens=false"), request("resume"))
    assert arrays(make("TextClassification", "addSpecialTokens=false\nstripAccents=true"), request("r\u00e9sum\u00e9")) == plain
    assert arrays(make("TextClassification", "addSpecialTokens=false\ndoLowerCase=true"), request("RESUME")) == plain
    assert arrays(make("TextClassification", "addSpecialTokens=false\naddPrefixSpace=true"), request("resume")) == plain


def test_types_of_tokens_and_int32(make):
    reading = make("TextClassification", "includeTokenTypes=true\nint32=true").read(TEXT)
    assert [one.name for one in reading.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {one.array.dtype for one in reading.inputs} == {np.dtype(np.int32)}
    reading = make("TextClassification").read(TEXT)
    assert [one.name for one in reading.spare] == ["token_type_ids"]
    assert reading.inputs[0].array.dtype == np.int64


def test_what_pads(make, tmp_path):
    config = json.dumps({"pad_token": {"content": "[SEP]"}, "padding_side": "left"})
    write_model(tmp_path, {"tokenizer_config.json": config})
    translator = make("TextClassification")
    ids, mask = arrays(translator, json_request([SHORT, LONG]))
    assert ids[0][0] == SEP
    assert mask[0][0] == 0
    assert translator.read(TEXT).inputs[0].pad == SEP


@pytest.mark.parametrize("content", ["[", "[]"])
def test_a_broken_configuration(make, tmp_path, content):
    write_model(tmp_path, {"tokenizer_config.json": content})
    with pytest.raises(InvalidModelError, match=r"tokenizer_config\.json: "):
        make("TextClassification")


def test_byte_pairs_of_two_files(make, tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([LONG] * 9, vocab_size=300, show_progress=False)
    folder = tmp_path / "pairs"
    folder.mkdir()
    tokenizer.save_model(str(folder))
    translator = make("TextClassification", "tokenizerPath=pairs")
    assert translator.tokenizer.decode(arrays(translator, request(SHORT))[0][0]) == SHORT


def test_text_classification(make):
    found = answer(make("TextClassification"), TEXT, [[0, np.log(3)]])
    assert found == [
        {"className": "positive", "probability": pytest.approx(0.75)},
        {"className": "negative", "probability": pytest.approx(0.25)},
    ]


def test_classes_that_may_both_be_true(make):
    translator = make("TextClassification", problem_type="multi_label_classification")
    assert [round(one["probability"], 3) for one in answer(translator, TEXT, [[0, 100]])] == [1, 0.5]


def test_a_single_class_is_a_probability_of_its_own(make):
    found = answer(make("TextClassification", labels=("spam",)), TEXT, [[0]])
    assert found == [{"className": "spam", "probability": 0.5}]


def test_a_list_gets_a_list_and_five_classes(make):
    translator = make("TextClassification", labels=tuple("abcdefg"))
    found = answer(translator, json_request(["a", "b"]), [list(range(7)), [9, *range(6)]])
    assert [[one["className"] for one in each] for each in found] == [list("gfedc"), list("agfed")]


@pytest.mark.parametrize("outputs", [[[[1, 2]] * 2], [5.0], [np.zeros((0, 2))]])
def test_outputs_for_other_texts(make, outputs):
    with pytest.raises(NodeError, match="expected a row for each of 1 texts"):
        answer(make("TextClassification"), TEXT, *outputs)


HIDDEN = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
TWO = json_request(["the", "of"])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [3, 4, 5]),
        ("max", [6, 7, 8]),
        ("cls", [0, 1, 2]),
        ("lasttoken", [6, 7, 8]),
        ("mean_sqrt_len", [9 / 3**0.5, 12 / 3**0.5, 15 / 3**0.5]),
        ("weightedmean", [4, 5, 6]),
    ],
)
def test_pooling_leaves_out_what_fills_up(make, pooling, expected):
    translator = make("TextEmbedding", f"pooling={pooling}\nnormalize=false\npadToMultipleOf=4")
    first, second = answer(translator, TWO, HIDDEN)
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    np.testing.assert_allclose(np.array(second) - first, 12 * (3**0.5 if pooling == "mean_sqrt_len" else 1), rtol=1e-5)


def test_embeddings_have_the_length_1(make):
    found = answer(make("TextEmbedding", "padToMultipleOf=4"), request("the"), HIDDEN[:1])
    np.testing.assert_allclose(found, np.array([3, 4, 5]) / 50**0.5, rtol=1e-6)


def test_the_last_hidden_state_is_found_by_name(make):
    translator = make("TextEmbedding", "normalize=false\npadToMultipleOf=4")
    outputs = ([[0]], HIDDEN[:1])
    assert answer(translator, request("the"), *outputs, names=("pooler", "last_hidden_state")) == [3, 4, 5]


def test_a_model_that_pools_itself(make):
    assert answer(make("TextEmbedding", "normalize=false"), request("the"), [[1, 2]]) == [1, 2]


@pytest.mark.parametrize("codec", [NDLIST, SAFETENSORS])
def test_layers_behind_the_model(make, tmp_path, codec):
    weight, bias = np.array([[1, 0, 0], [0, 2, 0]], np.float32), np.array([0.5, 0], np.float32)
    norm = {"norm.weight": np.array([2, 2], np.float32), "norm.bias": np.array([1, 1], np.float32)}
    layers = {"d": codec.encode({"linear.weight": weight, "linear.bias": bias}), "n": codec.encode(norm)}
    write_model(tmp_path, layers)
    text = "normalize=false\npadToMultipleOf=4\ndense=d\n"
    assert answer(make("TextEmbedding", text), request("the"), HIDDEN[:1]) == [3.5, 8]
    found = answer(make("TextEmbedding", text + "denseActivation=Tanh"), request("the"), HIDDEN[:1] / 10)
    np.testing.assert_allclose(found, np.tanh([0.8, 0.8]), rtol=1e-5)
    found = answer(make("TextEmbedding", text + "layerNorm=n"), request("the"), HIDDEN[:1])
    np.testing.assert_allclose(found, [-1, 3], atol=1e-4)


def test_sparse_embeddings_weigh_tokens(make, tmp_path):
    layer = {"weight": np.array([[1, 0, -1]], np.float32), "bias": np.array([0.5], np.float32)}
    write_model(tmp_path, {"sparse_linear.safetensors": SAFETENSORS.encode(layer)})
    hidden = np.array([[[9, 0, 0], [2, 0, 1], [0, 0, 1], [1, 0, 0], [9, 0, 0]]], np.float32)
    translator = make("TextEmbedding", "sparse=true")
    ids = arrays(translator, request("the values of"))[0][0]
    assert answer(translator, request("the values of"), hidden) == {"lexical_weights": {str(ids[1]): 1.5, str(ids[3]): 1.5}}
    found = answer(make("TextEmbedding", "sparse=true\nreturnDenseEmbedding=true\npooling=cls"), request("the values of"), hidden)
    assert found["dense_vecs"] == [1, 0, 0]
    with pytest.raises(NodeError, match="expected 5 tokens and 3 numbers"):
        answer(translator, request("the values of"), [[[1, 2]]])


@pytest.mark.parametrize("content", [b"broken", NDLIST.encode(np.zeros(3))])
def test_broken_layers(make, tmp_path, content):
    write_model(tmp_path, {"d": content})
    with pytest.raises(InvalidModelError, match=r"^d: "):
        make("TextEmbedding", "dense=d")


QUESTION, PARAGRAPH = "the values", "a list of the same values"


@pytest.mark.parametrize(
    "message",
    [
        json_request({"question": QUESTION, "paragraph": PARAGRAPH}),
        json_request({"question": QUESTION, "context": PARAGRAPH}),
        json_request({"inputs": {"question": QUESTION, "context": PARAGRAPH}}),
        request(question=QUESTION, paragraph=PARAGRAPH),
        request(question=QUESTION, context=PARAGRAPH),
    ],
)
def test_question_answering(make, message):
    translator = make("QuestionAnswering")
    reading = translator.read(message)
    count = reading.inputs[0].array.shape[1]
    starts, ends = np.zeros((2, 1, count), np.float32)
    # The question's and special tokens do not count, however probable.
    starts[0, [0, 1, 5]], ends[0, [2, 6, count - 1]] = (9, 8, 1), (9, 1, 8)
    assert answer(translator, message, starts, ends) == {"answer": "list of"}
    assert answer(translator, message, ends, starts) == {"answer": "list of"}
    detail = json.loads(answer(make("QuestionAnswering", "detail=true"), message, starts, ends)["answer"])
    assert (detail["answer"], detail["start"], detail["end"]) == ("list of", 5, 6)
    of_paragraph = count - 1 - 4
    assert detail["score"] == pytest.approx((np.e / (np.e + of_paragraph - 1)) ** 2, rel=1e-4)


def test_several_questions(make):
    message = json_request([{"question": QUESTION, "paragraph": PARAGRAPH}] * 2)
    translator = make("QuestionAnswering")
    scores = np.zeros((2, translator.read(message).inputs[0].array.shape[1]))
    scores[0, 4] = scores[1, 5] = 1
    assert answer(translator, message, scores, scores) == [{"answer": "a"}, {"answer": "list"}]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (json_request({"question": "a"}), "Missing question or context in json."),
        (json_request({"paragraph": "a"}), "Missing question or context in json."),
        (json_request({"question": "a", "paragraph": None}), "Missing question or context in json."),
        (json_request({"question": ["a"], "paragraph": "b"}), "question: expected a text"),
        (json_request("a"), 'the body: expected an object with "question"'),
        (json_request([{"question": "a", "paragraph": "b"}, 5]), r"\[1\]: expected an object"),
        (json_request([]), "got 0"),
        (request(question="a"), "Missing question or context in input."),
        (request("text"), "Missing question or context in input."),
        (type(TEXT)(), "Input data is empty"),
    ],
)
def test_wrong_questions(make, message, expected):
    with pytest.raises(InvalidInputError, match=expected):
        make("QuestionAnswering").read(message)


def test_an_empty_paragraph_has_no_answer(make):
    message = json_request({"question": "the", "paragraph": ""})
    translator = make("QuestionAnswering")
    scores = np.zeros((1, translator.read(message).inputs[0].array.shape[1]))
    with pytest.raises(InvalidInputError, match="No valid answer span"):
        answer(translator, message, scores, scores)


def test_too_few_scores_for_the_tokens(make):
    message = json_request({"question": QUESTION, "paragraph": PARAGRAPH})
    with pytest.raises(NodeError, match="1 scores for"):
        answer(make("QuestionAnswering"), message, [[0]], [[0]])
    with pytest.raises(NodeError, match="1 outputs; its translator needs 2"):
        answer(make("QuestionAnswering"), message, [[0] * 20])


NAMES = ("O", "B-PER", "I-PER", "B-LOC")
SENTENCE = request("the values of listing")


def of_tokens(translator, *classes):
    """Scores in which each token that is no special one is of a class, with a probability of 0.7 or, without, 0.1."""
    count = length(translator, SENTENCE)
    assert count == len(classes) + 2
    scores = np.full((1, count, len(NAMES)), np.log(0.1))
    for place, number in enumerate(classes, 1):
        scores[0, place, number] = np.log(0.7)
    return scores


def test_token_classification(make):
    translator = make("TokenClassification", labels=NAMES)
    words = translator.read(SENTENCE).note.encodings[0].tokens
    assert words == ["[CLS]", "the", "values", "of", "list", "##ing", "[SEP]"]
    found = answer(translator, SENTENCE, of_tokens(translator, 0, 1, 0, 0, 3))
    assert [one.pop("score") for one in found] == [pytest.approx(0.7)] * 2
    assert found == [
        {"entity": "B-PER", "index": 2, "word": "values", "start": 4, "end": 10},
        {"entity": "B-LOC", "index": 5, "word": "##ing", "start": 18, "end": 21},
    ]


@pytest.mark.parametrize(
    ("strategy", "classes", "expected"),
    [
        ("simple", (1, 2, 0, 3, 3), [("PER", "the values", 0, 10), ("LOC", "list", 14, 18), ("LOC", "##ing", 18, 21)]),
        ("first", (1, 1, 0, 3, 0), [("PER", "the", 0, 3), ("PER", "values", 4, 10), ("LOC", "listing", 14, 21)]),
        ("max", (0, 0, 0, 0, 3), []),
        ("average", (0, 0, 0, 3, 3), [("LOC", "listing", 14, 21)]),
        ("none", (0, 0, 0, 0, 0), []),
    ],
)
def test_tokens_that_belong_together(make, strategy, classes, expected):
    translator = make("TokenClassification", f"aggregation_strategy={strategy}", labels=NAMES)
    found = answer(translator, SENTENCE, of_tokens(translator, *classes))
    assert [(one["entity"], one["word"].strip(), one["start"], one["end"]) for one in found] == expected
    assert {one["index"] for one in found} <= {-1}


def test_scores_that_are_probabilities_already(make):
    translator = make("TokenClassification", "softmax=false", labels=NAMES)
    found = answer(translator, SENTENCE, of_tokens(translator, 0, 0, 0, 0, 1))
    assert found[-1]["score"] == pytest.approx(np.log(0.7))


@pytest.mark.parametrize("output", [[[1, 2, 3, 4]], [[[1, 2, 3, 4]]], [[[1]] * 7]])
def test_outputs_of_another_model(make, output):
    translator = make("TokenClassification", labels=NAMES)
    with pytest.raises(NodeError, match="expected 7 tokens and 4 classes"):
        answer(translator, SENTENCE, output)


def test_fill_mask(make):
    translator = make("FillMask", "topK=2")
    message = request("the [MASK] of a list")
    scores = np.zeros((1, length(translator, message), 4000), np.float32)
    best, second = (translator.tokenizer.id_of(word) for word in ("values", "the"))
    scores[0, 2, [best, second]] = 20, 19
    found = answer(translator, message, scores)
    assert [one["className"] for one in found] == ["values", "the"]
    assert found[0]["probability"] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-3)


@pytest.mark.parametrize(
    ("text", "expected"), [("no mask", r"Mask token \[MASK\] not found"), ("[MASK] [MASK]", "Only one mask supported")]
)
def test_masks(make, text, expected):
    with pytest.raises(InvalidInputError, match=expected):
        make("FillMask").read(request(text))


def test_a_mask_that_is_no_token(make):
    with pytest.raises(InvalidModelError, match="maskToken '<mask>' is no token"):
        make("FillMask", "maskToken=<mask>")


def test_fill_mask_by_a_classifier(make):
    with pytest.raises(NodeError, match="tokens and the vocabulary"):
        answer(make("FillMask"), request("[MASK]"), [[1, 2]])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (json_request({"text": "a", "text_pair": "b"}), [0.5]),
        (json_request({"key": "a", "value": "b"}), [0.5]),
        (request(text="a", text_pair="b"), [0.5]),
        (request(key="a", value="b"), [0.5]),
        (json_request({"query": "a", "texts": ["b"]}), [[0.5]]),
        (json_request([{"text": "a", "text_pair": "b"}]), [[0.5]]),
    ],
)
def test_cross_encoder(make, message, expected):
    assert answer(make("CrossEncoder"), message, [[0]]) == expected
    assert (
        answer(make("TextClassification", "reranking=true\nsigmoid=false"), message, [[7]]) == [[7]]
        if isinstance(expected[0], list)
        else [7]
    )


def test_a_ranking_keeps_the_order_of_the_texts(make):
    message = json_request({"query": "a", "texts": ["b", LONG]})
    ids, mask = arrays(make("CrossEncoder"), message)
    assert len(ids[0]) == len(ids[1])
    assert sum(mask[0]) < sum(mask[1])
    assert answer(make("CrossEncoder", "sigmoid=false"), message, [[1], [2]]) == [[1], [2]]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (json_request({"text": "a"}), "Missing text or text_pair in json."),
        (json_request(["a"]), r"\[0\]: Missing text or text_pair"),
        (json_request({"query": "a"}), "texts: expected a list"),
        (json_request({"query": "a", "texts": []}), "got 0"),
        (json_request({"query": "a", "texts": [None]}), r"texts\[0\]: expected a text"),
        (request(text="a"), "Missing key or value in input."),
        (type(TEXT)(), "Input data is empty"),
    ],
)
def test_wrong_pairs(make, message, expected):
    with pytest.raises(InvalidInputError, match=expected):
        make("CrossEncoder").read(message)


CANDIDATES = ["the", "values", "list"]


def test_zero_shot_compares_candidates(make):
    message = json_request({"text": SHORT, "candidate_labels": CANDIDATES})
    found = answer(make("ZeroShotClassification"), message, [[0, 0, 0], [0, 0, np.log(2)], [0, 0, 0]])
    assert found["sequence"] == SHORT
    assert found["labels"] == ["values", "the", "list"]
    np.testing.assert_allclose(found["scores"], [0.5, 0.25, 0.25], rtol=1e-6)


def test_zero_shot_in_the_form_of_hugging_face(make):
    message = json_request({"inputs": SHORT, "parameters": {"candidate_labels": ["the"], "hypothesis_template": "a {}"}})
    translator = make("ZeroShotClassification", model_type="bert")
    reading = translator.read(message)
    assert [one.name for one in reading.inputs][-1] == "token_type_ids"
    assert translator.tokenizer.decode(reading.inputs[0].array[0].tolist()) == "[CLS] the list [SEP] a the [SEP]"
    assert answer(translator, message, [[0, 5, np.log(3)]])["scores"] == [pytest.approx(0.75)]


def test_zero_shot_by_a_model_of_two_classes(make):
    message = json_request({"text": SHORT, "candidate_labels": CANDIDATES, "multi_label": True})
    translator = make("ZeroShotClassification", label2id={"ENTAILMENT": 0, "not_entailment": 1})
    found = answer(translator, message, [[np.log(3), 0], [0, 0], [0, np.log(3)]])
    np.testing.assert_allclose(found["scores"], [0.75, 0.5, 0.25], rtol=1e-6)
    assert found["labels"] == CANDIDATES


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "expected an object"),
        ({"text": "a"}, "Missing candidates in input"),
        ({"text": "a", "candidate_labels": []}, "Missing candidates in input"),
        ({"text": "a", "candidate_labels": "b"}, "Missing candidates in input"),
        ({"text": "a", "candidate_labels": [None]}, r"candidate_labels\[0\]: expected a text"),
        ({"candidate_labels": ["b"]}, "text: expected a text, got null"),
        ({"text": "a", "candidate_labels": ["b"], "multi_label": "yes"}, "multi_label: expected true or false"),
        ({"text": "a", "candidate_labels": ["b"], "hypothesis_template": []}, None),
        ({"text": "a", "candidate_labels": ["b"], "hypothesis_template": ["x"]}, "hypothesis_template: expected a text"),
        ({"inputs": "a", "parameters": 5}, "Missing candidates in input"),
    ],
)
def test_wrong_zero_shot_requests(make, value, expected):
    translator = make("ZeroShotClassification")
    if expected is None:
        assert translator.read(json_request(value)).inputs
        return
    with pytest.raises(InvalidInputError, match=expected):
        translator.read(json_request(value))


def test_zero_shot_by_a_model_with_too_few_classes(make):
    message = json_request({"text": SHORT, "candidate_labels": ["the"]})
    with pytest.raises(NodeError, match="2 scores; that for a text that follows should be 2"):
        answer(make("ZeroShotClassification"), message, [[0, 0]])


@pytest.mark.parametrize("value", ["x", -1])
def test_broken_numbers_of_classes(make, value):
    with pytest.raises(InvalidModelError, match="label2id"):
        make("ZeroShotClassification", label2id={"entailment": value})

"""Models as DJL has them, made on the spot: a folder with serving.properties, and a tokenizer trained on Python's own text."""

from __future__ import annotations

import functools
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from flowyard.schemas.messages import Message
from flowyard.schemas.properties import Property, as_mapping, parse_properties

SYNSET = ("cat", "dog", "fish")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
JSON = "application/json"


def properties_of(text: str) -> dict[str, Property]:
    """The entries of a serving.properties."""
    return as_mapping(parse_properties(text, "serving.properties"))


def request(body: bytes | str = b"", content_type: str = "", accept: str = "", **fields: str) -> Message:
    """A request with a body, or with fields."""
    headers = [("Content-Type", content_type), ("Accept", accept)]
    contents = [(name, value.encode()) for name, value in fields.items()]
    body = body.encode() if isinstance(body, str) else body
    return Message(
        properties=tuple((name, value) for name, value in headers if value),
        contents=(*contents, ("data", body)) if body or not fields else tuple(contents),
    )


def json_request(value: Any, accept: str = "") -> Message:
    """A request in JSON."""
    return request(json.dumps(value), JSON, accept)


def png(pixels: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    """An image file of rows, columns and, for colours, channels of bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@functools.cache
def tokenizer_json() -> str:
    """A word-piece tokenizer as BERT's, of the usual words in Python's help.

    The library's trainer breaks ties by chance, so that words are counted here.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = Counter(re.findall(r"[a-z]+", (topics.topics["typesseq"] + topics.topics["with"]).lower()))
    signs = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*SPECIAL, *signs, *(f"##{sign}" for sign in signs), "##ing", *sorted(words, key=lambda word: (-words[word], word))]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str()


def write_model(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Writes the files of a model."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def text_files(labels: tuple[str, ...] = (), **config: Any) -> dict[str, str]:
    """What a model of texts has besides itself."""
    named = {"id2label": {str(number): label for number, label in enumerate(labels)}} if labels else {}
    return {"tokenizer.json": tokenizer_json(), "config.json": json.dumps(named | config)}


def write_pretrained(folder: Path, architecture: str, config: Mapping[str, Any]) -> Path:
    """Writes a tiny model of Hugging Face's, with weights by chance and the tokenizer of `tokenizer_json`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers
        from tokenizers import Tokenizer

        torch.manual_seed(1)
        tokenizer = Tokenizer.from_str(tokenizer_json())
        sizes = {"vocab_size": tokenizer.get_vocab_size(), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        if architecture.startswith("T5"):
            sizes = {"vocab_size": sizes["vocab_size"], "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
            sizes |= {"decoder_start_token_id": 0, "eos_token_id": 3}
        else:
            sizes |= {"intermediate_size": 8, "max_position_embeddings": 64}
        if architecture == "LlamaForCausalLM":
            sizes |= {"bos_token_id": 2, "eos_token_id": 3}
        kind = getattr(transformers, architecture)
        kind(kind.config_class(**sizes, **config)).save_pretrained(folder)
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def image_onnx(channels: int = 3, classes: int = 3) -> bytes:
    """A classifier: the score of class n is n + 1 times the image's mean."""
    weight = np.arange(1, classes + 1, dtype=np.float32)[None]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("MatMul", ["column", "w"], ["scores"]),
    ]
    initial = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1], np.int64), "last")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, "H", "W"])]
    return _serialized(nodes, inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])], initial)


def text_onnx(names: tuple[str, ...] = ("input_ids", "attention_mask"), classes: int = 2) -> bytes:
    """A classifier of texts: the score of class n is n times the mean number of its tokens, padding left out, by 100."""
    weight = np.arange(classes, dtype=np.float32)[None] / 100
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ids", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "last"], ["total"], keepdims=1),
        helper.make_node("ReduceSum", ["mask", "last"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "w"], ["logits"]),
    ]
    initial = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1], np.int64), "last")]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in names]
    return _serialized(nodes, inputs, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])], initial)


def _serialized(nodes: list[Any], inputs: list[Any], outputs: list[Any], initial: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initial)
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content

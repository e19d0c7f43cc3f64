"""Models of Hugging Face's, by `transformers`: what `djl_python.huggingface` is in DJL. Only ever imported in a worker.

Nothing is fetched: the library is kept off line, whatever a model's files refer to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from djl_python.encode_decode import decode, encode
from djl_python.inputs import Input
from djl_python.outputs import Output
from flowyard.engines.base import Call, ModelSource, Outcome
from flowyard.engines.djl.handler import failure_of
from flowyard.engines.djl.messages import answer_of, input_of
from flowyard.engines.djl.pretrained import DTYPES, model_place, task_of
from flowyard.engines.failures import describe, is_out_of_memory
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import EngineOutOfMemoryError, FlowyardError, InvalidInputError, InvalidModelError
from flowyard.schemas.messages import Message

#: Tasks whose texts DJL makes with `generate`, so that parameters are those of `generate`.
_GENERATING = {"text-generation": "AutoModelForCausalLM", "text2text-generation": "AutoModelForSeq2SeqLM"}
_QUESTIONS = "question-answering"
#: Longest answer to a question, in tokens, as the library's own pipeline had it.
_LONGEST_ANSWER = 15


#: Takes a list of inputs, and parameters by name.
Pipeline: TypeAlias = Callable[..., Any]


class Request(NamedTuple):
    """One request, read; `place` is that in its batch."""

    place: int
    accept: str
    inputs: list[Any]
    parameters: dict[str, Any]


def load(source: ModelSource, device: Device) -> HuggingFaceModel:
    """Loads a model.

    Args:
        source: `root` is the folder; `properties` as for `make_pipeline`.
        device: Where it is to run.

    Returns:
        The model.

    Raises:
        InvalidModelError: As `make_pipeline`.
        EngineOutOfMemoryError: As `make_pipeline`.
    """
    where = f"cuda:{device.id}" if device.type == "gpu" else "cpu"
    return HuggingFaceModel(make_pipeline(Path(source.root), source.properties, where, source.threads))


def make_pipeline(root: Path, properties: Mapping[str, str], device: str, threads: int | None = None) -> Pipeline:
    """Loads a model.

    Args:
        root: The folder of the model.
        properties: Of them, `model_id`, `task`, `dtype` and `trust_remote_code` count.
        device: torch's name of it.
        threads: Intra-op threads it may use.

    Returns:
        What takes a list of inputs, and parameters by name, and gives a list with a result for each.

    Raises:
        InvalidModelError: The library is not installed, or does not take the model or the task; the message says why.
        EngineOutOfMemoryError: There is no memory for it.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        import torch  # noqa: PLC0415 - a server without such models runs without them
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise InvalidModelError(f"transformers cannot be imported: {error} (pip install 'flowyard[huggingface]')") from None
    if threads is not None:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    place = model_place(root, str(properties.get("model_id", "")).strip())
    task = task_of(place, str(properties.get("task", "")).strip())
    try:
        return _pipeline(transformers, task, place, properties, device)
    except FlowyardError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise EngineOutOfMemoryError("OOM") from None
        raise InvalidModelError(f"{task}: {describe(error).replace(str(place), place.name)[:1000]}") from error


def _pipeline(transformers: Any, task: str, place: Path, properties: Mapping[str, str], device: str) -> Pipeline:
    common: dict[str, Any] = {"trust_remote_code": properties.get("trust_remote_code", "").strip().lower() == "true"}
    dtype = DTYPES[properties.get("dtype", "").strip().lower()]
    weights = common | ({"dtype": dtype} if dtype else {})
    if task in _GENERATING:
        model = getattr(transformers, _GENERATING[task]).from_pretrained(place, **weights).to(device)
        return Generator(transformers.AutoTokenizer.from_pretrained(place, padding_side="left", **common), model)
    known = sorted(transformers.pipelines.SUPPORTED_TASKS)
    if task == _QUESTIONS and task not in known:
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(place, **weights).to(device)
        return QuestionAnswerer(transformers.AutoTokenizer.from_pretrained(place, **common), model)
    if task not in known:
        raise InvalidModelError(f"transformers {transformers.__version__} has no task {task!r}; it has {', '.join(known)}")
    run: Pipeline = transformers.pipeline(task, model=str(place), device=device, **weights)
    return run


class HuggingFaceModel:
    """A pipeline, ready to predict. Requests with the same parameters are computed together."""

    signature = None

    def __init__(self, run: Pipeline) -> None:
        """Takes a pipeline."""
        self._run: Any = run

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch; a request that fails, fails alone."""
        outcomes: list[Outcome] = [None] * len(batch)
        groups: list[list[Request]] = []
        for place, call in enumerate(batch):
            try:
                request = read(place, _input(call))
            except FlowyardError as error:
                outcomes[place] = error
                continue
            alike = next((group for group in groups if group[0].parameters == request.parameters), None)
            groups.append([request]) if alike is None else alike.append(request)
        for group in groups:
            for request, outcome in zip(group, self._together(group), strict=True):
                outcomes[request.place] = outcome
        return outcomes

    def unload(self) -> None:
        """Drops the pipeline."""
        self._run = None

    def _together(self, group: Sequence[Request]) -> list[Outcome]:
        inputs = [one for request in group for one in request.inputs]
        try:
            results = results_of(self._run, inputs, group[0].parameters)
        except Exception as error:  # noqa: BLE001 - the library raises what it likes
            if len(group) == 1:
                return [failure_of(error)]
            return [outcome for request in group for outcome in self._together([request])]
        ends = np.cumsum([len(request.inputs) for request in group])
        return [_answer(request, results[end - len(request.inputs) : end]) for request, end in zip(group, ends, strict=True)]


def results_of(run: Pipeline, inputs: list[Any], parameters: Mapping[str, Any]) -> list[Any]:
    """A result for each input."""
    found = run(inputs, **parameters)
    # For a list of one some pipelines give what they would give for that one.
    return list(found) if isinstance(found, (list, tuple)) and len(found) == len(inputs) else [found]


def _input(call: Call) -> Input:
    message = call.args[0] if len(call.args) == 1 else None
    if not isinstance(message, Message):
        raise InvalidInputError(f"expected one request, got {len(call.args)} arguments")
    return input_of(message, "handle", {})


def read(place: int, inputs: Input) -> Request:
    """Reads `{"inputs", "parameters"}`, or a body of another kind as the inputs.

    Raises:
        InvalidInputError: The body is of no such form.
    """
    kind = inputs.get_property("content-type") or ""
    try:
        value = decode(inputs, kind)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the body, it is the caller's
        raise InvalidInputError(f"Input Parsing failed. Ensure that the request payload is valid. {describe(error)}") from None
    parameters: Any = {}
    if isinstance(value, dict):
        parameters = value.pop("parameters", None) or {}
        value = value.pop("inputs", value)
    if not isinstance(parameters, dict):
        raise InvalidInputError("parameters: expected an object")
    listed = value if isinstance(value, list) else [value]
    if not listed or any(one is None or one in ("", {}) for one in listed if isinstance(one, (str, dict, type(None)))):
        raise InvalidInputError("inputs: expected a text or object, or a list of them, got nothing")
    return Request(place, _accepted(inputs.get_property("accept"), kind), listed, parameters)


def _accepted(accept: str | None, kind: str) -> str:
    if not accept:
        return kind if kind.startswith("tensor/") else "application/json"
    return "application/json" if "*/*" in accept else accept


def _answer(request: Request, results: list[Any]) -> Outcome:
    output = Output()
    try:
        encode(output, plain(results), request.accept)
    except Exception as error:  # noqa: BLE001 - results that cannot be told as the caller wants them
        return failure_of(error)
    return answer_of(output)


def plain(item: Any) -> Any:
    """A result without torch's tensors."""
    if hasattr(item, "detach"):
        return item.detach().cpu().float().numpy()
    if isinstance(item, dict):
        return {str(key): plain(one) for key, one in item.items()}
    if isinstance(item, (list, tuple)):
        return [plain(one) for one in item]
    return item


class Generator:
    """Writes text on, or answers with one; parameters are those of `generate`."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        """Takes a model and its tokenizer; one without a token to fill up with uses that for the end."""
        self._tokenizer = tokenizer
        self._model = model
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def __call__(self, texts: list[str], **parameters: Any) -> list[dict[str, str]]:
        """Generates a text for each."""
        tokens = self._tokenizer(texts, padding=len(texts) > 1, return_tensors="pt").to(self._model.device)
        ids = self._model.generate(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, **parameters)
        return [{"generated_text": text} for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]


class QuestionAnswerer:
    """Finds answers in contexts; newer versions of the library have no pipeline for it."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        """Takes a model and its tokenizer."""
        self._tokenizer = tokenizer
        self._model = model

    def __call__(self, pairs: list[Any], max_answer_len: int = _LONGEST_ANSWER) -> list[dict[str, Any]]:
        """Answers each `{"question", "context"}`."""
        return [self._answer(pair["question"], pair["context"], max_answer_len) for pair in pairs]

    def _answer(self, question: str, context: str, longest: int) -> dict[str, Any]:
        tokens = self._tokenizer(question, context, truncation="only_second", return_offsets_mapping=True, return_tensors="pt")
        offsets = tokens.pop("offset_mapping")[0].tolist()
        of_context = np.array([one == 1 for one in tokens.sequence_ids(0)])
        if not of_context.any():
            return {"score": 0.0, "start": 0, "end": 0, "answer": ""}
        scores = self._model(**tokens.to(self._model.device))
        starts, ends = (
            _probabilities(one[0].detach().cpu().float().numpy(), of_context) for one in (scores.start_logits, scores.end_logits)
        )
        # A start with each end that is not before it nor too far behind.
        joint = np.tril(np.triu(np.outer(starts, ends)), max(1, longest) - 1)
        start, end = np.unravel_index(joint.argmax(), joint.shape)
        first, last = offsets[start][0], offsets[end][1]
        return {"score": float(joint[start, end]), "start": first, "end": last, "answer": context[first:last]}


def _probabilities(scores: Any, of_context: Any) -> Any:
    kept = np.where(of_context, scores, -np.inf)
    exp = np.exp(kept - kept.max())
    return exp / exp.sum()

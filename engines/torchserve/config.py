"""A model's `model-config.yaml`, as TorchServe reads it: a value of the wrong kind is warned about and ignored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from flowyard.engines.torchserve import parallel
from flowyard.engines.torchserve.parallel import Parallel, parallel_of
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.models import ModelSpec

MAX_FILE_BYTES = 1 << 20
#: Longest time that a model may take to answer.
MOST_SECONDS = 86_400
#: How deep a file may nest, and how many values it may be once what its anchors stand for is counted wherever it is referred to.
MAX_DEPTH = 64
MAX_VALUES = 100_000
#: Characters of a text that count as one value.
_TEXT_CHARS = 64
#: Key of the file -> field of a `ModelSpec`.
NUMBERS = {
    "minWorkers": "min_worker",
    "maxWorkers": "max_worker",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay",
    "responseTimeout": "timeout",
    "jobQueueSize": "job_queue_size",
}
_OTHER_NUMBERS = (
    "startupTimeout",
    "maxRetryTimeoutInSec",
    "clientTimeoutInMills",
    "sequenceMaxIdleMSec",
    "sequenceTimeoutMSec",
    "maxNumSequence",
    "maxSequenceJobQueueSize",
)
_FLAGS = ("useJobTicket", "continuousBatching", "sequenceBatching", "asyncCommunication", "useVenv")
#: Each is a way of its own to call handlers, and does not go together with the other.
_PROTOCOLS = ("continuousBatching", "asyncCommunication")
#: Most requests of an asynchronous handler at a time where its `batchSize` says no more; TorchServe knows no bound.
AWAITED_AT_ONCE = 64
#: Keys that say something where `sequenceBatching` is on.
OF_SEQUENCES = ("maxNumSequence", "maxSequenceJobQueueSize", "sequenceMaxIdleMSec", "sequenceTimeoutMSec")
#: Every key that TorchServe itself reads.
KEYS = frozenset({*NUMBERS, *_OTHER_NUMBERS, *_FLAGS, *parallel.KEYS, "deviceType", "deviceIds"})
#: Those of them that are understood and do nothing.
WITHOUT_EFFECT = {
    "maxRetryTimeoutInSec": "a worker that is lost is started again, however often; only /ping minds it",
    "useVenv": "requirements are installed for the workers of their archive alone anyway",
}

logger = logging.getLogger(__name__)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: What the loader raises where a value is none of what its tag says.
_NO_SUCH_VALUE = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError)


class ModelConfig(msgspec.Struct, frozen=True):
    """What TorchServe itself reads of the file; everything in it, these keys too, reaches the handler.

    Attributes:
        file: The file's name in the archive, empty where there is none.
        settings: The keys of TorchServe's whose values are of the right kind; those of `parallel` as they are.
    """

    file: str = ""
    settings: Mapping[str, Any] = {}

    @property
    def startup_timeout_s(self) -> float | None:
        """How long a worker may take to load the model."""
        seconds = self.settings.get("startupTimeout")
        return float(seconds) if seconds else None

    @property
    def client_timeout_s(self) -> float:
        """How long a client waits; 0 for as long as it takes."""
        return float(self.settings.get("clientTimeoutInMills", 0)) / 1000

    @property
    def needs_idle(self) -> bool:
        """Whether a request is only taken in when a worker waits for it."""
        return bool(self.settings.get("useJobTicket", False))

    @property
    def has_sequences(self) -> bool:
        """Whether requests come in sequences, whose state a worker keeps."""
        return bool(self.settings.get("sequenceBatching", False))

    @property
    def sequence_idle_s(self) -> float:
        """How long a sequence may rest."""
        return float(self.settings.get("sequenceMaxIdleMSec", 0)) / 1000

    @property
    def sequence_timeout_s(self) -> float:
        """How long a sequence may last; 0 for as long as it likes."""
        return float(self.settings.get("sequenceTimeoutMSec", 0)) / 1000

    @property
    def max_sequences(self) -> int:
        """How many sequences there may be, if they are more than can be computed at once."""
        return int(self.settings.get("maxNumSequence", 1))

    @property
    def sequence_queue_size(self) -> int:
        """How many requests of a sequence may wait behind the one that is computed."""
        return max(1, int(self.settings.get("maxSequenceJobQueueSize", 1)))

    @property
    def is_continuous(self) -> bool:
        """Whether the handler is called again and again with all requests that have not ended (TorchServe reference §2.4)."""
        return bool(self.settings.get("continuousBatching", False))

    @property
    def is_asynchronous(self) -> bool:
        """Whether the handler is awaited for each request, beside the others (TorchServe reference §7, `asyncCommunication`)."""
        return bool(self.settings.get("asyncCommunication", False))

    def concurrency(self, batch_size: int) -> int:
        """Most requests that one worker computes at a time, each answered when it is done; 1 where it takes batches.

        Args:
            batch_size: What the model is registered with.
        """
        if self.is_asynchronous:
            return max(batch_size, AWAITED_AT_ONCE)
        if not self.is_continuous:
            return 1
        # Of sequences twice as many: who cancels one, say, must get through to it while others are computed.
        return 2 * batch_size if self.has_sequences else batch_size

    @property
    def parallel(self) -> Parallel:
        """The processes that a worker is made of.

        Raises:
            InvalidModelError: What the file says of them is not allowed.
        """
        try:
            return parallel_of(self.settings)
        except InvalidModelError as error:
            raise InvalidModelError(f"{self.file}: {error.message}") from None

    def as_json(self) -> str:
        """What the file says of itself, for descriptions."""
        said = {key: value for key, value in self.settings.items() if key not in parallel.KEYS}
        found = self.parallel
        if found.kind:
            said |= {parallel.TYPE: found.kind, parallel.LEVEL: found.level}
        return msgspec.json.encode(said).decode()

    def spec(self) -> ModelSpec:
        """How the model is to be served."""
        given = {field: self.settings[key] for key, field in NUMBERS.items() if key in self.settings}
        if "timeout" in given:
            given["timeout"] = min(given["timeout"], MOST_SECONDS)
        if given.get("min_worker") == 0 and given.get("max_worker", 0) > 0:
            # TorchServe starts one worker then.
            given["min_worker"] = 1
        if given.get("min_worker", 0) > given.get("max_worker", given.get("min_worker", 0)):
            logger.warning("%s: minWorkers is over maxWorkers; both are ignored", self.file)
            given = {field: value for field, value in given.items() if field not in ("min_worker", "max_worker")}
        return msgspec.convert(given, ModelSpec)

    def device(self, gpus: int) -> str | None:
        """The devices to load the model on, `None` where the file leaves that open.

        Args:
            gpus: How many GPUs there are. Without one everything runs on the CPU, and ids that are not there are ignored.
        """
        kind, ids = self.settings.get("deviceType"), self.settings.get("deviceIds", ())
        if kind == "cpu":
            return "cpu"
        if not gpus or not ids:
            return None
        if any(not 0 <= number < gpus for number in ids):
            logger.warning("%s: deviceIds %s: there are %d GPUs; all ids are ignored", self.file, list(ids), gpus)
            return None
        return ";".join(f"gpu{number}" for number in ids)

    def check(self, envelope: str = "") -> None:
        """Refuses what this version cannot do.

        Args:
            envelope: The `service_envelope` that the handler is to be in.

        Raises:
            InvalidModelError: The model needs processes, or handlers that are called in a way, that do not go together.
        """
        asked = [key for key in _PROTOCOLS if self.settings.get(key)]
        if self.is_asynchronous and self.has_sequences:
            raise InvalidModelError(
                f"{self.file}: asyncCommunication: this version does not do so together with sequenceBatching"
            )
        if len(asked) > 1:
            raise InvalidModelError(f"{self.file}: {' and '.join(asked)}: a handler is called in one of these ways")
        if asked and envelope:
            raise InvalidModelError(f"{self.file}: {asked[0]}: not with service_envelope {envelope!r}, which takes whole batches")
        if self.has_sequences and not self.sequence_idle_s:
            # TorchServe takes such a model, and refuses every request.
            told = "sequenceBatching needs a number of milliseconds over 0 that a sequence may rest"
            raise InvalidModelError(f"{self.file}: sequenceMaxIdleMSec: {told}")
        found = self.parallel
        if found.processes > 1 and self.is_asynchronous:
            told = (
                f"not with {parallel.TYPE} {found.kind!r}: all {found.processes} processes compute the same batches in one order"
            )
            raise InvalidModelError(f"{self.file}: asyncCommunication: {told}")


def read_config(folder: Path, name: str) -> ModelConfig:
    """Reads a model's configuration.

    Args:
        folder: The model's folder.
        name: The file's name in it, empty for none.

    Returns:
        The configuration; empty where there is no file, or one that cannot be read, which is logged.

    Raises:
        InvalidModelError: The file's name leads out of the folder, or it is too large.
    """
    if not name:
        return ModelConfig()
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise InvalidModelError(f"configFile: {name!r} leads out of the model's folder")
    if file.is_file() and file.stat().st_size > MAX_FILE_BYTES:
        raise InvalidModelError(f"{name} has more than {MAX_FILE_BYTES} bytes")
    given = load_yaml(file)
    return ModelConfig(name, {key: value for key, value in given.items() if _is_right(name, key, value)})


def load_yaml(file: Path) -> dict[str, Any]:
    """Reads a mapping; one that cannot be read is empty, and logged, as in TorchServe.

    Args:
        file: A YAML file.
    """
    try:
        text = file.read_bytes()
        _check_bounds(text)
        given = yaml.load(text, Loader=_Loader)  # noqa: S506 - the safe loader, or its twin in C
    except (OSError, yaml.YAMLError, *_NO_SUCH_VALUE) as error:
        logger.warning("Failed to parse model config file %s: %s", file.name, error)
        return {}
    return {str(key): value for key, value in given.items()} if isinstance(given, dict) else {}


def _check_bounds(text: bytes) -> None:
    """Refuses what grows when it is loaded, or when a message shows it: deep nests, and anchors that refer to anchors.

    Raises:
        YAMLError: It is over a limit, or no YAML.
    """
    sizes: dict[str, int] = {}
    nest: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            nest.append((event.anchor, 1))
            if len(nest) > MAX_DEPTH:
                raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in nest):
                raise yaml.YAMLError(f"the anchor &{event.anchor} contains itself")
            anchor, size = None, sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1 + len(event.value) // _TEXT_CHARS
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = nest.pop()
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if nest:
            above, together = nest[-1]
            nest[-1] = (above, together + size)
            if together + size > MAX_VALUES:
                raise yaml.YAMLError(f"more than {MAX_VALUES} values once anchors are expanded")


def _is_right(file: str, key: str, value: object) -> bool:
    """Whether a key is TorchServe's, and its value of the right kind."""
    if key in NUMBERS:
        return _fits(file, key, value)
    if key in _OTHER_NUMBERS:
        return _told(_is_int(value) and int(str(value)) >= 0, file, key, value, "integer")
    if key in _FLAGS:
        return _told(isinstance(value, bool), file, key, value, "boolean")
    if key == "deviceType":
        return _told(value in ("cpu", "gpu"), file, key, value, "cpu, or gpu")
    if key == "deviceIds":
        return _told(isinstance(value, list) and all(map(_is_int, value)), file, key, value, "list of integers")
    if key == parallel.TORCHRUN:
        return _told(isinstance(value, dict), file, key, value, "mapping")
    # Passed over, a wrong value would have one process compute what several are to.
    return key in parallel.KEYS


def _fits(file: str, key: str, value: object) -> bool:
    if not _told(_is_int(value), file, key, value, "integer"):
        return False
    if key == "responseTimeout" and int(str(value)) > MOST_SECONDS:
        logger.warning("%s: responseTimeout: %s s is taken for the most that is allowed, %d s", file, value, MOST_SECONDS)
        return True
    try:
        msgspec.convert({NUMBERS[key]: value}, ModelSpec)
    except msgspec.ValidationError as error:
        logger.warning("%s: Invalid %s: %s: %s", file, key, value, str(error).partition(" - ")[0])
        return False
    return True


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _told(right: bool, file: str, key: str, value: object, wanted: str) -> bool:
    if not right:
        logger.warning("%s: Invalid %s: %.100s, should be %s", file, key, value, wanted)
    return right

"""What has to be done so that the registry is as it is wanted: pure data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from flowyard.platform.client import calls
from flowyard.platform.client.answers import AdapterState, NameState, Status, VersionState
from flowyard.platform.client.calls import Call
from flowyard.platform.desired.documents import (
    PARAMETERS,
    NameDocument,
    VersionDocument,
    Wanted,
    file_digest,
    handler_options_of,
)
from flowyard.platform.registry.traffic import DEFAULT
from flowyard.schemas.adapters import AdapterSpec
from flowyard.schemas.models import HANDLER_OPTIONS

Sign = Literal["+", "~", "-"]
UPLOAD = "upload:"


class Change(msgspec.Struct, frozen=True):
    """One change.

    Attributes:
        sign: Whether something comes, changes or goes.
        name: Of the model or workflow.
        text: What changes, in words.
        call: The call that makes it.
    """

    sign: Sign
    name: str
    text: str
    call: Call[Status]

    def __str__(self) -> str:
        """A line of the difference."""
        return f"{self.sign} {self.name}{self.text}"


class Difference(msgspec.Struct, frozen=True):
    """The difference between what is wanted and what is there.

    Attributes:
        changes: What has to be done, in order; what follows a change of a name that fails is left out.
        unlisted: Names that are registered and in no document.
        impossible: Why something cannot be done.
    """

    changes: tuple[Change, ...] = ()
    unlisted: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()


def compare(wanted: Sequence[Wanted], state: Sequence[NameState], *, prune: bool) -> Difference:
    """Compares what is wanted with what is there.

    A document is complete for its name: versions that are not in it are unregistered, and what is not said of weights, default
    and shadows is taken back. Numbers of workers and adapters that are not said stay. Names in no document stay unless `prune`.

    Args:
        wanted: The documents.
        state: What is registered.
        prune: Whether names that are in no document are unregistered.

    Returns:
        The difference.

    Raises:
        InvalidRequestError: A file that is to be uploaded cannot be read.
    """
    there = {name.name: name for name in state}
    changes: list[Change] = []
    impossible: list[str] = []
    for item in wanted:
        present = there.get(item.document.name) or NameState(name=item.document.name)
        changes += _Name(item, present, impossible).changes()
    listed = {item.document.name for item in wanted}
    unlisted = tuple(name for name in there if name not in listed)
    if prune:
        changes += [Change("-", name, "", calls.unregister("models", name)) for name in unlisted]
        unlisted = ()
    return Difference(tuple(changes), unlisted, tuple(impossible))


class _Name:
    """The changes of one name."""

    def __init__(self, wanted: Wanted, present: NameState, impossible: list[str]) -> None:
        self._wanted = wanted
        self._document: NameDocument = wanted.document
        self._name = wanted.document.name
        self._present = present
        self._there = {version.version: version for version in present.versions}
        self._impossible = impossible

    def changes(self) -> list[Change]:
        """In an order in which each is allowed, and somebody answers all the time."""
        versions = [change for version in self._document.versions for change in self._version(version)]
        wanted = {version.exact for version in self._document.versions}
        if self._is_hidden("" in wanted):
            return []
        gone = [version for version in self._there if version not in wanted]
        removals = [
            Change("-", f"{self._name}:{_shown(version)}", "", calls.unregister("models", self._name, _shown(version)))
            for version in gone
        ]
        return [*versions, *self._traffic(gone), *removals]

    def _is_hidden(self, wanted: bool) -> bool:
        """Whether the version without a name cannot be meant by a call: `default` is the chosen one where there is one."""
        chosen = {self._present.default, self._document.default} - {None, DEFAULT}
        if not chosen or not (wanted or "" in self._there):
            return False
        told = f"{self._name} has a version without a name and {min(map(str, chosen))} as its default; give all versions a name"
        self._impossible.append(f"{self._wanted.place}: {told}")
        return True

    def _change(self, sign: Sign, version: str, text: str, call: Call[Status]) -> Change:
        return Change(sign, f"{self._name}:{version}", text, call)

    # ---- versions ----

    def _version(self, version: VersionDocument) -> list[Change]:
        present = self._there.get(version.exact)
        digest = file_digest(self._wanted.path(version)) if version.file else (version.sha256 or "").lower()
        if version.file and version.sha256 and version.sha256.lower() != digest:
            self._impossible.append(f"{self._wanted.place}: the sha256 of {version.file} is {digest}, not {version.sha256}")
            return []
        differences = [] if present is None else _differences(version, digest, present)
        if present is not None and not differences and present.status != "FAILED":
            return [*self._workers(version, present), *self._adapters(version, present.adapters)]
        if version.url.startswith(UPLOAD):
            what = "is not here" if present is None else f"differs ({', '.join(differences) or 'it has failed'})"
            told = f"version {version.version} was uploaded and {what}: give its file, or a url, to register it"
            self._impossible.append(f"{self._wanted.place}: {told}")
            return []
        call = self._registration(version, digest, replace=present is not None)
        if present is None:
            text = f"  {version.file or version.url}"
            return [self._change("+", version.version, text, call), *self._of_new(version)]
        why = ", ".join(differences) or "it has failed"
        return [self._change("~", version.version, f"  {why}", call), *self._of_new(version)]

    def _registration(self, version: VersionDocument, digest: str, *, replace: bool) -> Call[Status]:
        options: dict[str, Any] = version.parameters() | version.options()
        options |= {"model_name": self._name, "model_version": version.exact or None, "sha256": digest or None}
        options |= {"min_worker": version.min_worker, "max_worker": version.max_worker, "replace": True if replace else None}
        source: str | Path = self._wanted.path(version) if version.file else version.url
        return calls.register("models", source, options)

    def _of_new(self, version: VersionDocument) -> list[Change]:
        """What has to follow a registration: it brings its numbers of workers, and the adapters of its archive, with it."""
        scaled = [
            self._scale(version, low, high, device, model)
            for model, devices in version.workers.items()
            for device, (low, high) in devices.items()
        ]
        return [*scaled, *self._adapters(version, {})]

    def _adapters(self, version: VersionDocument, there: Mapping[str, Sequence[AdapterState]]) -> list[Change]:
        """Adapters that are not as they are wanted, or of which nothing was said yet."""
        return [
            self._change(
                "~",
                version.version,
                f"  adapters of {model}: {', '.join(adapter.name for adapter in adapters) or 'none'}",
                calls.set_adapters(self._name, version.version, adapters, model=model),
            )
            for model, adapters in version.adapters.items()
            if model not in there or not _are(adapters, there[model])
        ]

    def _workers(self, version: VersionDocument, present: VersionState) -> list[Change]:
        """What has to be scaled; the numbers of the registration count until something was scaled."""
        if version.workers:
            return [
                self._scale(version, low, high, device, model)
                for model, devices in version.workers.items()
                for device, (low, high) in devices.items()
                if present.workers.get(model, {}).get(device) != (low, high)
            ]
        asked = (version.min_worker, version.max_worker)
        said = (present.parameters.get("min_worker"), present.parameters.get("max_worker"))
        numbers: set[tuple[int | None, int | None]]
        numbers = {pair for devices in present.workers.values() for pair in devices.values()} or {said}
        if all(_fits(asked, pair) for pair in numbers):
            return []
        return [self._scale(version, version.min_worker, version.max_worker, None, None)]

    def _scale(
        self, version: VersionDocument, low: int | None, high: int | None, device: str | None, model: str | None
    ) -> Change:
        call = calls.scale("models", self._name, version.version, min_worker=low, max_worker=high, device=device, model=model)
        said = {"min_worker": low, "max_worker": high, "device": device, "model": model}
        text = " ".join(f"{key}={value}" for key, value in said.items() if value is not None)
        return self._change("~", version.version, f"  {text}", call)

    # ---- weights, default, shadows ----

    def _traffic(self, gone: Sequence[str]) -> list[Change]:
        left = {_shown(version) for version in gone}
        changes = self._ended_shadows(left)
        # What is said of versions that go is taken back by their going.
        default = self._present.default
        weights = {version: weight for version, weight in self._present.weights.items() if version not in left}
        document = self._document
        if document.default is not None and document.default != default:
            call = calls.set_default("models", self._name, document.default)
            changes.append(self._change("~", document.default, "  is the default version", call))
        elif document.default is None and default is not None and default not in left:
            call = calls.clear_default("models", self._name, default)
            changes.append(self._change("~", default, "  is no longer the default version", call))
        if {**document.weights} != weights or (left and document.weights and self._present.weights != document.weights):
            call = (
                calls.set_weights("models", self._name, document.weights)
                if document.weights
                else calls.clear_weights("models", self._name)
            )
            shown = ",".join(f"{version}:{weight}" for version, weight in document.weights.items()) or "none"
            changes.append(Change("~", self._name, f"  weights {shown}", call))
        return [*changes, *self._new_shadows()]

    def _ended_shadows(self, left: set[str]) -> list[Change]:
        return [
            self._change("~", version, "  is no shadow", calls.set_shadow("models", self._name, version, shadow=False))
            for version in self._present.shadows
            if version not in self._document.shadows and version not in left
        ]

    def _new_shadows(self) -> list[Change]:
        return [
            self._change("~", version, "  is a shadow", calls.set_shadow("models", self._name, version))
            for version in self._document.shadows
            if version not in self._present.shadows
        ]


def _differences(version: VersionDocument, digest: str, present: VersionState) -> list[str]:
    """What of a registration is not as it is wanted, without workers."""
    found = []
    if version.file:
        if digest not in (present.sha256.lower(), present.digest):
            found.append("the file")
    elif version.url != present.url:
        found.append(f"url {present.url} -> {version.url}")
    elif digest and digest not in (present.sha256.lower(), present.digest):
        found.append("sha256")
    said: Mapping[str, object] = version.parameters()
    for name in PARAMETERS:
        before, after = present.parameters.get(name), said.get(name)
        if (before or None) != (after or None):
            found.append(f"{name} {_told(before)} -> {_told(after)}")
    wanted, there = version.options(), handler_options_of(present)
    found += [
        f"{name} {_told(there.get(name))} -> {_told(wanted.get(name))}"
        for name in HANDLER_OPTIONS
        if there.get(name) != wanted.get(name)
    ]
    return found


def _are(wanted: Sequence[AdapterSpec], there: Sequence[AdapterState]) -> bool:
    """Whether adapters are as they are wanted, in whatever order."""
    known = {state.name: AdapterSpec(**msgspec.structs.asdict(state)).adapter() for state in there}
    return {spec.name for spec in wanted} == set(known) and all(spec.says(known[spec.name]) for spec in wanted)


def _fits(asked: tuple[int | None, int | None], there: tuple[int | None, int | None]) -> bool:
    return all(wanted is None or wanted == number for wanted, number in zip(asked, there, strict=True))


def _told(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _shown(version: str) -> str:
    return version or DEFAULT

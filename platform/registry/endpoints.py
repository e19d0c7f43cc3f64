"""Names and versions in memory: which deployment answers a request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.entries import Entry, shown
from flowyard.platform.registry.sequences import SequenceTurns
from flowyard.platform.registry.traffic import DEFAULT, NO_TRAFFIC, Traffic, Turns
from flowyard.schemas.errors import AlreadyRegisteredError, ConflictError, InvalidRequestError, ModelNotFoundError, NotReadyError

#: Versions that a message lists.
MOST_LISTED = 20
_NO_HEADERS: Mapping[str, str] = {}


class Before(msgspec.Struct, frozen=True):
    """A name as it was before entries of it were taken out.

    Attributes:
        name: The name.
        versions: Its entries by version, in order.
        traffic: What was said about them.
        entries: Those that were taken out.
    """

    name: str
    versions: dict[str, Any]
    traffic: Traffic
    entries: tuple[Any, ...]


class Endpoints:
    """All names with their versions, in the order the versions were registered.

    Who answers is worked out when something changes; `route` only looks it up.

    Attributes:
        shadows: Shadow versions that run, by name; only names that have some.
        of_sequences: Who answers, for names of which several versions run and one keeps sequences.
        whole: Names without shadows, of which every version that answers does so in one piece.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, dict[str, Entry]] = {}
        self._traffic: dict[str, Traffic] = {}
        self._turns: dict[str, Turns[Deployment]] = {}
        self.of_sequences: dict[str, SequenceTurns[Deployment]] = {}
        self.shadows: dict[str, tuple[Entry, ...]] = {}
        self._leaving: set[tuple[str, str]] = set()
        self.whole: set[str] = set()

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by name, then in order of registration."""
        for name in sorted(self._by_name):
            yield from self._by_name[name].values()

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._by_name)

    def get(self, name: str, version: str) -> Entry | None:
        """The entry of exactly this version, empty for the one without a version."""
        return self._by_name.get(name, {}).get(version)

    def holds(self, entry: Entry) -> bool:
        """Whether this very entry is registered."""
        return self.get(entry.record.name, entry.record.version) is entry

    def check_held(self, entry: Entry) -> None:
        """Checks that this very entry is registered.

        Raises:
            ConflictError: It was unregistered meanwhile.
        """
        if not self.holds(entry):
            label = shown(entry.record.name, entry.record.version)
            raise ConflictError(f"Workflow {label} was unregistered while it was being registered.")

    # ---- what is registered ----

    def add(self, entry: Entry, *, again: bool = False) -> Entry | None:
        """Takes an entry in, in the place of one that has failed.

        Args:
            entry: The entry.
            again: Whether it was in before: then it may be an unversioned one after versioned ones.

        Returns:
            The failed one.

        Raises:
            ConflictError: The name and version are taken, or an unversioned entry would follow a versioned one (DJL §1.3).
        """
        name, version = entry.record.name, entry.record.version
        if not again or self.get(name, version) is not None:
            self.check_free(name, version)
        versions = self._by_name.setdefault(name, {})
        before = versions.get(version)
        versions[version] = entry
        self._changed(name)
        return before

    def ready(self, entry: Entry, deployment: Deployment) -> None:
        """The deployment of an entry is up: it answers from now on."""
        entry.deployment = entry.attempt = deployment
        entry.status = "READY"
        self._changed(entry.record.name)

    def check_free(self, name: str, version: str) -> None:
        """Checks that an entry could be taken in, maybe in the place of one that has failed.

        Raises:
            ConflictError: The name and version are taken, or an unversioned entry would follow a versioned one (DJL §1.3).
        """
        versions = self._by_name.get(name, {})
        before = versions.get(version)
        taken = (before is not None and before.status != "FAILED") or (name, version) in self._leaving
        too_late = before is None and versions and not version
        if taken or too_late or (version == DEFAULT and "" in versions):
            raise AlreadyRegisteredError(f"Workflow {shown(name, version)} is already registered.", name, version)

    def remove(self, entry: Entry) -> None:
        """Takes an entry out, and all that was said about its version; does nothing when it is not in."""
        name, version = entry.record.name, entry.record.version
        if not self.holds(entry):
            return
        del self._by_name[name][version]
        self._set(name, self.traffic(name).without(version))

    def swap(self, before: Entry, entry: Entry, deployment: Deployment | None) -> None:
        """Puts an entry in the place of another of the same name and version, which keeps all that is said about it.

        Args:
            before: The one that goes.
            entry: The one that comes.
            deployment: What runs of it.
        """
        name, version = before.record.name, before.record.version
        self._by_name[name][version] = entry
        if deployment is not None:
            self.ready(entry, deployment)
        else:
            self._changed(name)

    def taken_out(self, entries: Sequence[Entry]) -> Before:
        """Takes entries of one name out, as `remove`.

        Returns:
            What `put_back` needs.
        """
        name = entries[0].record.name
        before = Before(name, dict(self._by_name.get(name, {})), self.traffic(name), tuple(entries))
        for entry in entries:
            self.remove(entry)
        return before

    @contextlib.contextmanager
    def places_kept(self, before: Before) -> Iterator[None]:
        """Lets nobody take the places of entries that were taken out, for the time of the context: they may have to come back."""
        places = {(entry.record.name, entry.record.version) for entry in before.entries}
        self._leaving |= places
        try:
            yield
        finally:
            self._leaving -= places

    def put_back(self, before: Before) -> None:
        """Undoes `taken_out`: where the entries were, unless their places are taken by now."""
        versions = self._by_name.get(before.name, {})
        back = {entry.record.version: entry for entry in before.entries if entry.record.version not in versions}
        order = [*before.versions, *(version for version in versions if version not in before.versions)]
        now = {**versions, **back}
        self._by_name[before.name] = {version: now[version] for version in order if version in now}
        self._set(before.name, before.traffic.among(now))

    # ---- how requests are spread ----

    def traffic(self, name: str) -> Traffic:
        """What is said about the versions of a name."""
        return self._traffic.get(name, NO_TRAFFIC)

    def restore_traffic(self, name: str, traffic: Traffic) -> None:
        """Says again what was said before, as far as the versions are there."""
        self._set(name, traffic.among(self._by_name.get(name, {})))

    def set_weights(self, name: str, weights: Mapping[str, int]) -> None:
        """Sets the shares of the versions of a name; none take them back.

        Args:
            name: The name.
            weights: By version, `default` for the default or unversioned one.

        Raises:
            ModelNotFoundError: There is no such name.
            InvalidRequestError: There is no such version, or it is a shadow.
        """
        self.versions(name)
        traffic = self.traffic(name)
        chosen: dict[str, int] = {}
        for version, weight in weights.items():
            entry = self._find(name, version)
            if entry is None:
                raise InvalidRequestError(f"Parameter weights: {self._no_version(name, version)}")
            exact = entry.record.version
            if weight and exact in traffic.shadows:
                raise InvalidRequestError(f"Parameter weights: version {version} of {name} is a shadow, which answers nothing.")
            chosen[exact] = weight
        self._set(name, msgspec.structs.replace(traffic, weights=chosen))

    def set_default(self, name: str, version: str) -> None:
        """Chooses the version that answers where there are no weights.

        Raises:
            ModelNotFoundError: There is no such name or version.
            ConflictError: It is a shadow.
        """
        (entry,) = self.versions(name, version)
        exact = entry.record.version
        traffic = self.traffic(name)
        if exact in traffic.shadows:
            raise ConflictError(f"Version {version} of {name} is a shadow; end that first with shadow=false.")
        self._set(name, msgspec.structs.replace(traffic, default=exact))

    def clear_default(self, name: str, version: str) -> None:
        """Takes the choice of a version back.

        Raises:
            ModelNotFoundError: There is no such name or version, or it is not the default.
        """
        (entry,) = self.versions(name, version)
        traffic = self.traffic(name)
        if traffic.default != entry.record.version:
            raise ModelNotFoundError(f"Version {version} is not the default version of {name}.")
        self._set(name, msgspec.structs.replace(traffic, default=None))

    def set_shadow(self, name: str, version: str, *, on: bool) -> None:
        """Makes a version a shadow, or lets it answer again.

        Raises:
            ModelNotFoundError: There is no such name or version.
            ConflictError: It is the default version, has a weight, or no other version would be left to answer.
        """
        (entry,) = self.versions(name, version)
        exact = entry.record.version
        traffic = self.traffic(name)
        others = tuple(shadow for shadow in traffic.shadows if shadow != exact)
        if not on:
            self._set(name, msgspec.structs.replace(traffic, shadows=others))
            return
        if traffic.default == exact:
            raise ConflictError(f"Version {version} is the default version of {name}; choose another one first.")
        if traffic.weights.get(exact):
            raise ConflictError(f"Version {version} of {name} has weight {traffic.weights[exact]}; give it 0 first.")
        if len(self._by_name[name]) == len(others) + 1:
            raise ConflictError(f"Version {version} is the only one of {name} that answers; register another one first.")
        self._set(name, msgspec.structs.replace(traffic, shadows=(*others, exact)))

    def _set(self, name: str, traffic: Traffic) -> None:
        if traffic == NO_TRAFFIC:
            self._traffic.pop(name, None)
        else:
            self._traffic[name] = traffic
        self._changed(name)

    def _changed(self, name: str) -> None:
        """Works out anew who answers."""
        versions = self._by_name.get(name, {})
        if not versions:
            self._by_name.pop(name, None)
        traffic = self.traffic(name)
        running = {version: entry.deployment for version, entry in versions.items() if entry.deployment is not None}
        shares = traffic.shares(running)
        shadows = tuple(versions[version] for version in traffic.shadows if version in running)
        self._turns.pop(name, None)
        self.of_sequences.pop(name, None)
        answering = [deployment for version, deployment in running.items() if version not in traffic.shadows]
        if shares and len(answering) > 1 and any(deployment.sequence_header for deployment in answering):
            self.of_sequences[name] = SequenceTurns(shares, answering)
        elif shares:
            self._turns[name] = Turns(shares)
        self.shadows.pop(name, None)
        if shadows:
            self.shadows[name] = shadows
        self.whole.discard(name)
        if shares and not shadows and all(deployment.answers_whole for deployment, _ in shares):
            self.whole.add(name)

    # ---- who answers ----

    def versions(self, name: str, version: str | None = None) -> list[Entry]:
        """The entries of a name, or the one of a version. `default` is the chosen or the unversioned one (DJL §1.3).

        Raises:
            ModelNotFoundError: There is none.
        """
        versions = self._by_name.get(name)
        if not versions:
            raise ModelNotFoundError(f"Model or workflow not found: {name}")
        if version is None:
            return list(versions.values())
        entry = self._find(name, version)
        if entry is None:
            raise ModelNotFoundError(f"Model or workflow not found: {name}")
        return [entry]

    def route(self, name: str, version: str | None = None, headers: Mapping[str, str] = _NO_HEADERS) -> Deployment:
        """The deployment that answers a request: the named version, or whose turn it is (DJL §2.3).

        Args:
            name: The name.
            version: The version, `None` for any.
            headers: Of the request, names in lower case: one of a sequence goes to the version where that began.

        Raises:
            ModelNotFoundError: No such name or version.
            NotReadyError: It is there, but does not run.
        """
        if version is None:
            turns = self._turns.get(name)
            if turns is not None:
                return turns.next()
            of_sequences = self.of_sequences.get(name)
            if of_sequences is not None:
                return of_sequences.next(headers)
            self.versions(name)
        else:
            (entry,) = self.versions(name, version)
            if entry.deployment is not None:
                return entry.deployment
        raise NotReadyError(f"Model is not ready: {name}")

    def _find(self, name: str, version: str) -> Entry | None:
        versions = self._by_name[name]
        if version == DEFAULT and version not in versions:
            chosen = self.traffic(name).default
            return versions.get("" if chosen is None else chosen)
        return versions.get(version)

    def _no_version(self, name: str, version: str) -> str:
        known = [known or DEFAULT for known in self._by_name[name]]
        more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
        return f"no version {version} of {name}; it has {', '.join(known[:MOST_LISTED])}{more}."

"""Reads YAML text into nodes with positions: one document, no tags, bounded anchors."""

from __future__ import annotations

import re
from typing import Any

import yaml

from flowyard.workflows.problems import Problems
from flowyard.workflows.source import (
    LIMIT_DEPTH,
    LIMIT_NODES,
    At,
    Entry,
    Mapping,
    Node,
    Scalar,
    Sequence,
    SourceError,
    add_entry,
    plain_scalar,
)

#: What the YAML specification leaves out of its printable characters.
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def compose(text: str, problems: Problems) -> Node:
    """Reads YAML.

    Args:
        text: The whole text.
        problems: Receives duplicate keys.

    Returns:
        The root of the only document.

    Raises:
        SourceError: It is not YAML, uses what is refused, or is over the limits.
    """
    composer = _Composer(problems)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if composer.is_second(event):
                break
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        line, column = _place(error.problem_mark or error.context_mark)
        raise SourceError(f"not YAML: {_reason(error, text, line, column)}", line, column) from None
    except yaml.YAMLError as error:
        raise _unreadable(text, str(error).splitlines()[0]) from None
    return composer.root()


def _reason(error: yaml.MarkedYAMLError, text: str, line: int, column: int) -> str:
    written = "".join(text.split("\n")[line - 1 : line]) if line else ""
    return f"{error.problem}{' (a tab; indent with spaces)' if chr(9) in written[:column] else ''}"


def _unreadable(text: str, reason: str) -> SourceError:
    """Places a character that YAML does not allow."""
    found = _NOT_YAML.search(text)
    if found is None:
        return SourceError(f"not YAML: {reason}")
    line = text.count("\n", 0, found.start()) + 1
    return SourceError(
        f"not YAML: the character {found[0]!r} is not allowed", line, found.start() - text.rfind("\n", 0, found.start())
    )


def _place(mark: Any) -> tuple[int, int]:
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)


class _Open:
    """A list or mapping whose end has not been read yet; a mapping's keys and values alternate."""

    def __init__(self, event: Any) -> None:
        self.anchor: str | None = event.anchor
        self.is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.line, self.column = _place(event.start_mark)
        self.children: list[Node] = []
        self.size = 1
        self.height = 1


class _Composer:
    """Builds nodes from parser events on a stack of its own, so that depth is checked before it hurts."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._root: Node | None = None

    def root(self) -> Node:
        if self._root is None:
            raise SourceError("the file is empty")
        return self._root

    def is_second(self, event: Any) -> bool:
        """Whether another document begins, which is noted as a problem."""
        if not isinstance(event, yaml.DocumentStartEvent) or self._root is None:
            return False
        self._problems.error("a second document; a file holds one workflow", At(*_place(event.start_mark)))
        return True

    def take(self, event: Any) -> None:
        """Takes the next event of the parser."""
        if isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.NodeEvent):
            self._node(event)

    def _node(self, event: Any) -> None:
        if event.tag is not None:
            self._problems.error(f"the tag {event.tag} is not allowed", At(*_place(event.start_mark)), name=event.tag)
        if isinstance(event, yaml.ScalarEvent):
            self._add(_scalar(event, self._problems), 1, 1, event.anchor)
            return
        self._stack.append(_Open(event))
        self._limit(len(self._stack), event)

    def _limit(self, depth: int, event: Any) -> None:
        if depth > LIMIT_DEPTH:
            raise SourceError(f"nested deeper than {LIMIT_DEPTH} levels", *_place(event.start_mark))

    def _alias(self, event: Any) -> None:
        name = event.anchor
        if any(frame.anchor == name for frame in self._stack):
            raise SourceError(f"the anchor &{name} contains itself", *_place(event.start_mark))
        if name not in self._anchors:
            raise SourceError(f"no anchor &{name} before this alias", *_place(event.start_mark))
        node, size, height = self._anchors[name]
        self._limit(len(self._stack) + height - 1, event)
        self._add(node, size, height, None)

    def _close(self) -> None:
        frame = self._stack.pop()
        node: Node = (
            Mapping(self._entries(frame), frame.line, frame.column)
            if frame.is_mapping
            else Sequence(tuple(frame.children), frame.line, frame.column)
        )
        self._add(node, frame.size, frame.height, frame.anchor)

    def _add(self, node: Node, size: int, height: int, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size, height)
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.children.append(node)
        parent.size += size
        parent.height = max(parent.height, height + 1)
        if parent.size > LIMIT_NODES:
            raise SourceError(f"more than {LIMIT_NODES} values once anchors are expanded", node.line, node.column)

    def _entries(self, frame: _Open) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: list[Node] = []
        for key, value in zip(frame.children[::2], frame.children[1::2], strict=True):
            if isinstance(key, Scalar) and key.text == "<<":
                merged.extend(value.items if isinstance(value, Sequence) else (value,))
            else:
                add_entry(entries, key, value, self._problems)
        for source in merged:
            if not isinstance(source, Mapping):
                self._problems.error("`<<` takes a mapping or a list of mappings", source, name="<<")
                continue
            for name, entry in source.entries.items():
                entries.setdefault(name, entry)
        return entries


def _scalar(event: Any, problems: Problems) -> Scalar:
    line, column = _place(event.start_mark)
    if event.style:
        return Scalar(event.value, event.value, line, column)
    try:
        return Scalar(plain_scalar(event.value), event.value, line, column)
    except ValueError as error:
        problems.error(str(error), At(line, column), name=event.value[:100])
        return Scalar(0, event.value, line, column)

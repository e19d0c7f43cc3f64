"""Reads YAML text into nodes with positions: one document, no tags, bounded anchors."""

from __future__ import annotations

from typing import Any

import yaml

from flowyard.workflows.problems import Problems
from flowyard.workflows.source import (
    LIMIT_DEPTH,
    LIMIT_NODES,
    Entry,
    Mapping,
    Node,
    Scalar,
    Sequence,
    SourceError,
    add_entry,
    plain_scalar,
)

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
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        line, column = _place(error.problem_mark or error.context_mark)
        raise SourceError(f"not YAML: {error.problem}", line, column) from None
    except yaml.YAMLError as error:
        raise SourceError(f"not YAML: {str(error).splitlines()[0]}") from None
    return composer.root()


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

    def take(self, event: Any) -> None:
        """Takes the next event of the parser."""
        if isinstance(event, yaml.DocumentStartEvent) and self._root is not None:
            raise SourceError("a second document; a file holds one workflow", *_place(event.start_mark))
        if isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.NodeEvent):
            self._node(event)

    def _node(self, event: Any) -> None:
        if event.tag is not None:
            raise SourceError(f"the tag {event.tag} is not allowed", *_place(event.start_mark))
        if isinstance(event, yaml.ScalarEvent):
            self._add(_scalar(event), 1, 1, event.anchor)
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


def _scalar(event: Any) -> Scalar:
    line, column = _place(event.start_mark)
    if event.style:
        return Scalar(event.value, event.value, line, column)
    try:
        return Scalar(plain_scalar(event.value), event.value, line, column)
    except ValueError as error:
        raise SourceError(str(error), line, column) from None

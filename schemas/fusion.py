"""Fused nodes: nodes of a workflow that one worker computes in one call, as that worker is told of them."""

from __future__ import annotations

from typing import Literal

import msgspec

from flowyard.schemas.models import ModelSpec

#: What a call of fused nodes is called; no function can be called that.
FUSED = "fused/"
#: A call that only has the worker load the models of its fused nodes.
LOAD_FUSED = "fused/load"


class FusedNode(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One node.

    Attributes:
        callee: Local name of the function or model, or the method of the ensemble.
        kind: What it is.
        args: Where its arguments come from: the number of a node before it, or -1, -2 … for the call's first, second … argument.
        given: Whether its result is given back.
        weights: Those of an ensemble's members.
    """

    callee: str
    kind: Literal["function", "model", "ensemble"]
    args: tuple[int, ...]
    given: bool
    weights: tuple[float, ...] | None = None


class FusedModel(msgspec.Struct, frozen=True, array_like=True):
    """A model that is loaded beside what the worker is for; attributes as in `Load`."""

    engine: str
    root: str
    path: str
    spec: ModelSpec
    threads: int


class Fusion(msgspec.Struct, frozen=True, array_like=True):
    """The fused nodes of a workflow.

    Attributes:
        nodes: In the order in which they are computed.
        models: Their models by local name, but for the worker's own.
    """

    nodes: tuple[FusedNode, ...]
    models: dict[str, FusedModel]

"""What a path of the inference API means (TorchServe reference §2.1). Pure."""

from __future__ import annotations

import msgspec


class Call(msgspec.Struct, frozen=True):
    """A prediction that is asked for.

    Attributes:
        name: The model; `None` where the path does not say.
        version: Its version; `None` for the default one.
        url_path: What follows the version, told to the handler; `None` where it is not told.
        explain: Whether an explanation is wanted, told to the handler; `None` where it is not told.
        takes_query: Whether query parameters are inputs.
        workflow: Whether it is a workflow that is asked.
    """

    name: str | None
    version: str | None = None
    url_path: str | None = None
    explain: bool | None = None
    takes_query: bool = False
    workflow: bool = False


def segments_of(path: str) -> tuple[str, ...]:
    """The segments of a decoded path: without those that are empty at its end, as Java splits."""
    parts = path.split("/")[1:]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def torchserve_call(segments: tuple[str, ...]) -> Call | None:
    """What TorchServe predicts at a path; `None` for nothing."""
    match segments:
        case [("predictions" | "explanations") as what, name, *rest]:
            version = rest[0] if rest else None
            return Call(name, version, url_path="/".join(rest[1:]), explain=what == "explanations")
        case ["v1", "models", target]:
            return _v1(target)
        case ["v2", "models", target, ("infer" | "explain") as what]:
            return Call(target.partition(":")[0], explain=what == "explain")
        case [name, version, "predict"]:
            return Call(name, version, takes_query=True)
        case [first, name, *_] if first.lower() == "wfpredict":
            return Call(name, workflow=True)
    return _sagemaker(segments)


def mms_call(segments: tuple[str, ...]) -> Call | None:
    """What MMS predicts at a path; `None` for nothing."""
    match segments:
        case ["predictions", name, *_]:
            return Call(name)
    return _sagemaker(segments)


def _sagemaker(segments: tuple[str, ...]) -> Call | None:
    match segments:
        case ["invocations"]:
            return Call(None, takes_query=True)
        case ["models", name, "invoke"] | [name, "predict"]:
            return Call(name, takes_query=True)
    return None


def _v1(target: str) -> Call | None:
    for verb in (":predict", ":explain"):
        if verb in target:
            return Call(target.partition(":")[0], explain=verb == ":explain")
    return None

"""What is registered, shown to people."""

from __future__ import annotations

from collections.abc import Sequence

from flowyard.platform.cli.output import printable, show_table
from flowyard.platform.client import Model, WorkerGroup, Workflow

COLUMNS = ("model", "engine", "status", "device", "workers", "min", "max", "queued", "batch", "delay ms")


def show_versions(versions: Sequence[Workflow]) -> None:
    """Shows each version: what it is, its models with one line a worker group, and what they take and give."""
    for index, version in enumerate(versions):
        if index:
            print()
        print(printable(_head(version)))
        if version.reason:
            print(printable(f"reason: {version.reason}"))
        models = [*version.models, *([version.functions] if version.functions is not None else [])]
        if models:
            show_table(COLUMNS, [row for model in models for row in _rows(model)])
        for line in (line for model in version.models for line in _signature(model)):
            print(printable(line))


def _head(version: Workflow) -> str:
    name = f"{version.workflow_name}:{version.version}" if version.version else version.workflow_name
    notes = [
        version.status,
        "default" if version.default else "",
        f"weight {version.weight:g}" if version.weight is not None else "",
        _shadow(version),
        version.url,
    ]
    return "  ".join([name, *(note for note in notes if note)])


def _shadow(version: Workflow) -> str:
    counts = version.shadow_requests
    if not version.shadow or counts is None:
        return "shadow" if version.shadow else ""
    return f"shadow ({counts.sent} sent, {counts.answered} answered, {counts.failed} failed, {counts.skipped} skipped)"


def _rows(model: Model) -> list[tuple[str, ...]]:
    return [_row(model, group) for group in model.worker_groups or (None,)]


def _row(model: Model, group: WorkerGroup | None) -> tuple[str, ...]:
    workers = ("", "", "", "")
    if group is not None:
        workers = (str(group.device), str(len(group.workers)), str(group.min_workers), str(group.max_workers))
    queued = f"{model.request_in_queue}/{model.queue_size}"
    batch = (str(model.batch_size), str(model.max_batch_delay_millis))
    return (model.model_name, model.engine, model.status, *workers, queued, *batch)


def _signature(model: Model) -> list[str]:
    if model.signature is None:
        return []
    inputs = [f"{model.model_name} takes {spec}" for spec in model.signature.inputs]
    return inputs + [f"{model.model_name} gives {spec}" for spec in model.signature.outputs]

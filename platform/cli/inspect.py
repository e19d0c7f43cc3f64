"""`flowyard inspect`: what an archive is and needs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flowyard.platform.cli.output import aligned, printable
from flowyard.platform.cli.session import JsonOutput
from flowyard.platform.inspection import Manifest, ModelFacts
from flowyard.platform.inspection import inspect as inspect_path


def inspect(archive: Path, /, *, json_output: JsonOutput = False) -> int:
    """Tell what an archive is and needs, without executing anything of it. Exit status 1 when a registration would refuse it.

    Parameters
    ----------
    archive
        Archive, model file, workflow file or folder.
    json_output
        Print it as JSON.
    """
    manifest = inspect_path(archive)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(manifest)).decode())
    else:
        for line in _lines(manifest):
            print(printable(line))
    refused = any(problem.severity == "error" for problem in manifest.problems)
    return 1 if refused or any(model.problem for model in manifest.models) else 0


def _lines(manifest: Manifest) -> list[str]:
    label = f"{manifest.name}:{manifest.version}" if manifest.version else manifest.name
    head = [
        ("format", manifest.format),
        ("kind", f"{manifest.kind} {label}".rstrip()),
        ("size", f"{manifest.size_bytes} bytes, {manifest.unpacked_bytes} unpacked in {len(manifest.files)} files"),
        ("sha256", manifest.sha256),
        ("digest", manifest.digest),
        ("requirements", ", ".join(manifest.requirements)),
        *[(f"function {name}", target) for name, target in manifest.functions.items()],
        *[line for model in manifest.models for line in _model_lines(model)],
        *[(f"torchserve {key}", str(value)) for key, value in _flat(manifest.torchserve)],
    ]
    files = [(f"{file.size_bytes}", file.sha256[:12], file.path) for file in manifest.files]
    lines = aligned([row for row in head if row[1]])
    return [*lines, *map(str, manifest.problems), *(["", *aligned(files)] if files else [])]


def _model_lines(model: ModelFacts) -> list[tuple[str, str]]:
    signature = model.signature
    said = " ".join(f"{key}={value}" for key, value in model.parameters.items())
    return [
        (f"model {model.name}", f"{model.file or model.url} ({model.engine or 'no engine'})"),
        ("  takes", ", ".join(map(str, signature.inputs)) if signature is not None else ""),
        ("  gives", ", ".join(map(str, signature.outputs)) if signature is not None else ""),
        ("  parameters", said),
        ("  problem", model.problem),
    ]


def _flat(facts: dict[str, object], above: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in facts.items():
        found += _flat(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", value)]
    return found

"""`flowyard migrate`: an installation of TorchServe, MMS or DJL Serving as documents and settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from flowyard.platform.cli.failures import REFUSED
from flowyard.platform.cli.management import Flag
from flowyard.platform.cli.output import printable
from flowyard.platform.cli.session import JsonOutput
from flowyard.platform.migration.installation import Product, find
from flowyard.platform.migration.migration import SETTINGS_FILE, Migration, write
from flowyard.platform.migration.migration import migrate as migrate_installation
from flowyard.platform.migration.verdicts import Outcome, Verdict

_ORDER: tuple[Outcome, ...] = ("carried", "no effect", "changes answers")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `flowyard migrate --json` prints.

    Attributes:
        installation: The folder of the installation.
        product: Whose it is: `torchserve`, `mms` or `djl`.
        config: Its configuration, `None` where there is none.
        snapshot: The snapshot of a TorchServe that counts, `None` where there is none.
        out: The folder that was written, `None` with --dry-run.
        files: The files in it.
        names: Models and workflows, with their versions.
        settings: Names of the settings.
        url: Where `flowyard apply` finds the server that is started with these settings.
        changes_answers: Whether something is answered otherwise.
        keys: What became of each key.
        notes: What there is to say besides.
    """

    installation: str
    product: Product
    config: str | None
    snapshot: str | None
    out: str | None
    files: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    settings: tuple[str, ...]
    url: str
    changes_answers: bool
    keys: tuple[Verdict, ...]
    notes: tuple[str, ...]


def migrate(
    folder: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    product: Annotated[Product | None, Parameter(name="--from")] = None,
    config: Path | None = None,
    model_store: Path | None = None,
    ncs: Annotated[bool, Parameter(name=["--no-config-snapshots", "--ncs"], negative=())] = False,
    dry_run: Flag = False,
    force: Flag = False,
    json_output: JsonOutput = False,
) -> int:
    """Make documents for apply, and settings, of an installation of TorchServe, Multi Model Server or DJL Serving.

    Each key of its configuration is a line of the report: where it has gone (=), that it does nothing here (-), or that
    something is answered otherwise without it (!). Exit status 1 when there is one of the last kind. The installation is only
    read.

    Parameters
    ----------
    folder
        The installation: a folder with config.properties, logs/config and model-store, or with conf/config.properties and models.
    out
        Folder that is written; NAME-flowyard in the working directory by default, with the name of the installation's folder.
    product
        torchserve, mms or djl, where it cannot be told from the folder.
    config
        The config.properties, where it is not in its usual place.
    model_store
        The model store, where the configuration does not say it, or it is elsewhere now.
    ncs
        Read the config.properties only, not what the newest snapshot of TorchServe says over it.
    dry_run
        Report, and write nothing.
    force
        Overwrite what is in the folder.
    json_output
        Print the report as JSON.
    """
    installation = find(folder, os.environ, product=product, config=config, snapshots=not ncs)
    migration = migrate_installation(installation, os.environ, model_store)
    place = out or Path(f"{installation.folder.resolve().name}-flowyard")
    files = [] if dry_run else write(migration, place, force=force)
    if json_output:
        report = _report(migration, None if dry_run else place, files)
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        for line in [*_lines(migration), *([] if dry_run else _next(migration, place))]:
            print(printable(_near(line)))
    return REFUSED if migration.changes_answers else 0


def _report(migration: Migration, out: Path | None, files: list[Path]) -> Report:
    installation = migration.installation
    return Report(
        installation=str(installation.folder),
        product=installation.product,
        config=str(installation.config) if installation.config is not None else None,
        snapshot=str(installation.snapshot) if installation.snapshot is not None else None,
        out=str(out) if out is not None else None,
        files=tuple(map(str, files)),
        names={document.name: tuple(version.version for version in document.versions) for document in migration.documents},
        settings=tuple(line.key for line in migration.lines),
        url=migration.url,
        changes_answers=migration.changes_answers,
        keys=migration.verdicts,
        notes=migration.notes,
    )


def _lines(migration: Migration) -> Iterator[str]:
    """The report: what answers otherwise last, where it is seen."""
    ordered = [verdict for outcome in _ORDER for verdict in migration.verdicts if verdict.outcome == outcome]
    yield from map(str, ordered)
    yield from (f"note: {note}" for note in migration.notes)
    counts = {outcome: sum(verdict.outcome == outcome for verdict in migration.verdicts) for outcome in _ORDER}
    names = ", ".join(f"{document.name}:{version.version}" for document in migration.documents for version in document.versions)
    yield ""
    yield f"{migration.installation.title}: {names or 'no models'}"
    carried, idle, changing = (counts[outcome] for outcome in _ORDER)
    yield f"{carried} carried over, {idle} without effect here, {changing} that answer otherwise"


def _near(line: str) -> str:
    """Paths below the working directory as they are seen from there."""
    here = Path.cwd()
    return line if here == Path("/") else line.replace(f"{here}/", "")


def _next(migration: Migration, place: Path) -> Iterator[str]:
    yield f"{place}: {len(migration.documents)} documents and {SETTINGS_FILE}. To serve them:"
    yield f"  flowyard serve --config {place / SETTINGS_FILE}"
    yield f"  flowyard apply {place} --url {migration.url}"

"""Whose installation a folder is, and where in it configuration, snapshots and stores are."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from flowyard.engines import discovery
from flowyard.engines.djl import folder as djl
from flowyard.engines.torchserve.folder import MANIFEST, MAX_MANIFEST_BYTES, is_of_torchserve
from flowyard.platform import djl_config, torchserve_config
from flowyard.platform.archives.names import is_archive_name
from flowyard.platform.djl_config import HOME
from flowyard.platform.torchserve_config import CONFIG_FILE
from flowyard.platform.torchserve_snapshots import newest_snapshot
from flowyard.schemas.errors import FlowyardError, InvalidRequestError
from flowyard.schemas.properties import read_properties

Product: TypeAlias = Literal["torchserve", "mms", "djl"]

TITLES: dict[Product, str] = {"torchserve": "TorchServe", "mms": "MMS", "djl": "DJL Serving"}
#: Where stores usually are.
STORES: dict[Product, tuple[str, ...]] = {
    "torchserve": ("model-store", "model_store", "models"),
    "mms": ("model-store", "model_store", "models"),
    "djl": ("models", "model"),
}
#: Where the file is in images of TorchServe for KServe, too.
_CONFIG_FILES = (CONFIG_FILE, f"config/{CONFIG_FILE}")
_ARCHIVES = (".mar", ".war", ".model")
#: Keys that only MMS has.
_OF_MMS = frozenset({"default_response_timeout_seconds", "preload_model"})


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """An installation.

    Attributes:
        folder: Its folder, absolute.
        product: Whose it is.
        config: Its configuration, `None` where there is none.
        snapshot: The newest snapshot of a TorchServe, `None` where there is none, or none is wanted.
    """

    folder: Path
    product: Product
    config: Path | None = None
    snapshot: Path | None = None

    @property
    def title(self) -> str:
        """What the product is called."""
        return TITLES[self.product]


def find(
    folder: Path, env: Mapping[str, str], *, product: Product | None = None, config: Path | None = None, snapshots: bool = True
) -> Installation:
    """Finds an installation.

    Args:
        folder: Its folder.
        env: The environment; `LOG_LOCATION` says where a TorchServe has its snapshots.
        product: Whose it is, `None` to find out.
        config: Its configuration, `None` to look where it usually is.
        snapshots: Whether the newest snapshot counts.

    Raises:
        InvalidRequestError: There is no such folder or file, or it is nobody's installation.
    """
    if not folder.is_dir():
        raise InvalidRequestError(f"{folder}: no such folder")
    if config is not None and not config.is_file():
        raise InvalidRequestError(f"--config {config}: no such file")
    folder = folder.absolute()
    snapshot = newest_snapshot(torchserve_config.logs_of(env, folder)) if snapshots and product in (None, "torchserve") else None
    product = product or _product(folder, config, snapshot)
    if config is None:
        config = djl_config.find_config({HOME: str(folder)}) if product == "djl" else _config_of(folder)
    return Installation(folder=folder, product=product, config=config, snapshot=snapshot if product == "torchserve" else None)


def _config_of(folder: Path) -> Path | None:
    return next((file for name in _CONFIG_FILES if (file := folder / name).is_file()), None)


def _product(folder: Path, config: Path | None, snapshot: Path | None) -> Product:
    if snapshot is not None:
        return "torchserve"
    if config is None and djl_config.find_config({HOME: str(folder)}) == folder / "conf" / CONFIG_FILE:
        return "djl"
    config = config or _config_of(folder)
    keys = {entry.key for entry in read_properties(config)} if config is not None else set()
    of_djl = keys & (djl_config.KEYS - torchserve_config.KEYS)
    of_torchserve = keys & (torchserve_config.KEYS - djl_config.KEYS)
    archives = list(_archives(folder))
    if len(of_torchserve) >= len(of_djl) and (archives or of_torchserve):
        of_mms = [is_of_mms for archive in archives if (is_of_mms := _is_of_mms(archive)) is not None]
        return "mms" if keys & _OF_MMS or (of_mms and all(of_mms)) else "torchserve"
    if keys & djl_config.KEYS or any(map(_is_model, _entries(folder))):
        return "djl"
    raise InvalidRequestError(
        f"{folder}: neither an installation of TorchServe or MMS ({CONFIG_FILE}, logs/config/*.cfg, archives in model-store) "
        f"nor one of DJL Serving (conf/{CONFIG_FILE}, models in models); --from and --config say what it is and where"
    )


def _archives(folder: Path) -> Iterator[Path]:
    for name in STORES["torchserve"]:
        yield from (file for file in sorted((folder / name).glob("*")) if file.suffix in _ARCHIVES)


def _entries(folder: Path) -> Iterator[Path]:
    for name in STORES["djl"]:
        yield from (entry for entry in sorted((folder / name).glob("*")) if not entry.name.startswith("."))


def _is_model(entry: Path) -> bool:
    if (entry / djl.FILE).is_file() or is_archive_name(entry.name):
        return True
    try:
        return djl.recognise(entry, None) is not None or bool(discovery.infer(entry))
    except FlowyardError:
        return False


def _is_of_mms(archive: Path) -> bool | None:
    """Whether the manifest of an archive is one of MMS; `None` where there is none to be read."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(MANIFEST) as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, RuntimeError, RecursionError):
        return None
    return not is_of_torchserve(manifest) if isinstance(manifest, dict) else None

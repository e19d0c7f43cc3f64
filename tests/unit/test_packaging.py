"""The four folders are the four packages, they know each other in one direction only, and `platform` stays the library's."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Who may import whom.
MAY_IMPORT = {
    "schemas": {"schemas"},
    "engines": {"schemas", "engines"},
    "workflows": {"schemas", "workflows"},
    "platform": {"schemas", "engines", "workflows", "platform"},
}
#: What a room must not know, besides its neighbours.
FORBIDDEN = {
    "schemas": {"litestar", "uvicorn", "sqlite3", "asyncio", "torch", "onnxruntime", "networkx"},
    "engines": {"litestar", "uvicorn", "sqlite3"},
    "workflows": {"litestar", "uvicorn", "sqlite3", "asyncio", "torch", "onnxruntime"},
    "platform": {"torch", "onnxruntime", "pickle", "networkx"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "flowyard":
                found |= {f"flowyard.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_dependencies_point_one_way(package):
    assert modules(package)
    for path in modules(package):
        ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("flowyard.")}
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_room_knows_what_is_not_its_business(package):
    for path in modules(package):
        theirs = {name.split(".")[0] for name in imports_of(path)}
        assert not theirs & FORBIDDEN[package], f"{path.relative_to(ROOT)} imports {theirs & FORBIDDEN[package]}"


def test_import_platform_from_the_repository_root_is_the_standard_librarys():
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import sys; sys.path.insert(0, ''); import platform; print(platform.python_version())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ".".join(map(str, sys.version_info[:3]))


def test_every_folder_with_modules_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for package in MAY_IMPORT for path in modules(package)}
    assert sorted(settings["packages"]) == sorted("flowyard." + ".".join(folder.parts) for folder in folders)
    assert settings["package-dir"] == {f"flowyard.{package}": package for package in MAY_IMPORT}


def test_the_server_imports_neither_an_engines_library_nor_the_clients():
    code = (
        "import sys, flowyard.platform.server, flowyard.platform.cli.main;"
        "print([name for name in ('torch', 'onnxruntime', 'httpx2', 'grpc', 'google.protobuf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

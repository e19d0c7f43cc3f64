"""A real server process per test module, and nothing left behind by any test."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from support.server import ServerProcess, running


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ServerProcess]:
    """One server for the tests of a module; each registers under names of its own."""
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def http(server: ServerProcess) -> httpx2.Client:
    assert server.client is not None
    return server.client

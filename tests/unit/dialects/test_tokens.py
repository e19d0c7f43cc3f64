"""TorchServe's tokens: who may do what, until when, and how a key is renewed."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest

from flowyard.platform.http.torchserve.errors import InvalidKeyError
from flowyard.platform.http.torchserve.tokens import Tokens
from flowyard.schemas.errors import InvalidRequestError


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path, clock) -> Tokens:
    return Tokens(tmp_path / "key_file.json", timedelta(minutes=60), clock)


def key(tmp_path, kind: str) -> str:
    return json.loads((tmp_path / "key_file.json").read_text())[kind]["key"]


def test_the_file_is_for_the_owner_and_says_when_keys_run_out(tokens, tmp_path):
    file = tmp_path / "key_file.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = json.loads(file.read_text())
    assert told["management"]["expiration time"] == "2026-01-01T01:00:00.000000Z"
    assert told.keys() == {"management", "inference", "API"}
    assert len({told[kind]["key"] for kind in told}) == 3
    assert list(tmp_path.iterdir()) == [file]


def test_each_key_opens_its_own_door(tokens, tmp_path):
    tokens.check(f"Bearer {key(tmp_path, 'inference')}", ("inference",))
    tokens.check(f"Bearer  {key(tmp_path, 'management')}", ("management",))
    tokens.check(f"Bearer {key(tmp_path, 'management')}", ("inference", "management"))
    for kind in ("management", "API"):
        with pytest.raises(InvalidKeyError):
            tokens.check(f"Bearer {key(tmp_path, kind)}", ("inference",))


@pytest.mark.parametrize(
    "form", ["", "Bearer", "Bearer ", "bearer {}", "{}", "Basic {}", "Bearer {} x", "Bearer \u00e9", "Bearer {}x"]
)
def test_what_is_no_token_opens_nothing(tokens, tmp_path, form):
    with pytest.raises(InvalidKeyError, match="Token Authorization failed"):
        tokens.check(form.format(key(tmp_path, "inference")), ("inference",))


def test_a_key_runs_out(tokens, tmp_path, clock):
    good = f"Bearer {key(tmp_path, 'inference')}"
    clock.now += timedelta(minutes=59)
    tokens.check(good, ("inference",))
    clock.now += timedelta(minutes=1)
    with pytest.raises(InvalidKeyError):
        tokens.check(good, ("inference",))


def test_the_api_key_renews_the_others(tokens, tmp_path, clock):
    old = key(tmp_path, "inference")
    clock.now += timedelta(minutes=60)
    tokens.renew(f"Bearer {key(tmp_path, 'API')}", "inference")
    assert key(tmp_path, "inference") != old
    tokens.check(f"Bearer {key(tmp_path, 'inference')}", ("inference",))
    with pytest.raises(InvalidKeyError):
        tokens.check(f"Bearer {old}", ("inference",))


@pytest.mark.parametrize("kind", [None, "", "other", "API", "token"])
def test_no_other_key_can_be_renewed(tokens, tmp_path, kind):
    with pytest.raises(InvalidKeyError, match="Token Authentication failed"):
        tokens.renew(f"Bearer {key(tmp_path, 'API')}", kind)


def test_only_the_api_key_renews(tokens, tmp_path):
    with pytest.raises(InvalidKeyError):
        tokens.renew(f"Bearer {key(tmp_path, 'management')}", "management")


def test_the_file_goes_with_the_server(tokens, tmp_path):
    tokens.remove_file()
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(InvalidRequestError, match="tokens cannot be written"):
        Tokens(tmp_path / "none" / "key_file.json", timedelta(minutes=1))

"""Tokens on disk, and a server that keeps up with them."""

from __future__ import annotations

import json
import stat
import threading
from datetime import timedelta

import msgspec
import pytest

from flowyard.platform.access.keyring import FILE, Keyring, TokenFile, is_over
from flowyard.platform.access.tokens import now_utc
from flowyard.schemas.errors import ConflictError, NotFoundError


def create(file, *scopes, **more):
    def make(tokens):
        after, made, text = tokens.create(scopes or ["inference"], now_utc(), **more)
        return after, (made, text)

    return file.change(make)


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "state")


def test_nobody_else_may_look(tmp_path, file):
    create(file)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()} == {
        "tokens.json": 0o600,
        "tokens.lock": 0o600,
    }


def test_a_token_that_is_made_while_the_server_runs_is_good_at_once(file):
    keyring = Keyring(file)
    assert not keyring.is_required
    made, text = create(file, "inference", "metrics")
    known = keyring.find(text.encode())
    assert keyring.is_required
    assert known.scopes == {"inference", "metrics"}
    assert keyring.find(text.encode()) is known
    _, second = create(file, "management")
    assert keyring.find(second.encode()).scopes == {"management"}
    file.change(lambda tokens: tokens.revoke(made.id))
    keyring.refresh()
    assert keyring.find(text.encode()) is None
    assert keyring.find(second.encode()) is not None


@pytest.mark.parametrize("what", ["nothing", "id", "cut", "longer", "other", "bytes", "case"])
def test_what_is_no_token_of_ours(file, what):
    made, text = create(file)
    given = {
        "nothing": "",
        "id": f"fyd_{made.id}_",
        "cut": text[:-1],
        "longer": text + "a",
        "other": f"fyd_{made.id}_{'a' * 43}",
        "bytes": text[:-1] + "\xff",
        "case": text.upper(),
    }[what]
    assert Keyring(file).find(given.encode("latin-1")) is None


def test_the_digest_is_no_token(tmp_path, file):
    made, _ = create(file)
    assert Keyring(file).find(made.digest.encode()) is None
    assert Keyring(file).find(f"fyd_{made.id}_{made.digest}".encode()) is None


def test_an_expired_token_is_known_as_one(file):
    made, text = create(file, lifetime=timedelta(seconds=1))
    file.change(lambda tokens: (type(tokens)((msgspec.structs.replace(made, expires=made.created),)), None))
    assert is_over(Keyring(file).find(text.encode()))


def test_revoking_the_last_one_does_not_open_the_door(tmp_path, file):
    made, _ = create(file)
    keyring = Keyring(file)
    file.change(lambda tokens: tokens.revoke(made.id))
    keyring.refresh()
    assert keyring.is_required
    assert Keyring(file).is_required
    (tmp_path / "state" / FILE).unlink()
    keyring.refresh()
    assert keyring.is_required


def test_a_file_that_broke_leaves_the_tokens_as_they_were(tmp_path, file):
    _, text = create(file)
    keyring = Keyring(file)
    (tmp_path / "state" / FILE).write_text("{")
    keyring.refresh()
    assert keyring.find(text.encode()) is not None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"tokens": 1}', '{"tokens": [{}]}', '{"tokens": [], "x": 1}', '{"tokens": [{"id": "a", "scopes": []}]}'],
)
def test_a_file_that_is_none_of_ours_keeps_the_server_from_starting(tmp_path, file, content):
    create(file)
    path = tmp_path / "state" / FILE
    path.write_text(content)
    with pytest.raises(ConflictError, match=r"tokens\.json cannot be used"):
        Keyring(file)
    with pytest.raises(ConflictError, match=r"tokens\.json cannot be used"):
        create(file)
    assert path.read_text() == content


def test_a_change_that_fails_changes_nothing(tmp_path, file):
    create(file, name="a")
    before = (tmp_path / "state" / FILE).read_bytes()
    with pytest.raises(NotFoundError):
        file.change(lambda tokens: tokens.revoke("b"))
    assert (tmp_path / "state" / FILE).read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConflictError, match="cannot be used"):
        create(TokenFile(tmp_path / "file" / "state"))


def test_changes_at_the_same_time_are_all_made(tmp_path, file):
    threads = [threading.Thread(target=create, args=(file,), kwargs={"name": f"t{number}"}) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = json.loads((tmp_path / "state" / FILE).read_text())["tokens"]
    assert sorted(token["name"] for token in kept) == sorted(f"t{number}" for number in range(10))


def test_what_was_found_before_is_kept_once_for_each_token(file):
    _, text = create(file)
    keyring = Keyring(file)
    assert keyring.good == {}
    for _ in range(3):
        known = keyring.find(text.encode())
        assert keyring.find(f"{text}x".encode()) is None
    assert keyring.good == {b"Bearer " + text.encode(): known}
    create(file)
    keyring.refresh()
    assert keyring.good == {}

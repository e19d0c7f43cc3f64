"""Tokens as they are made, replaced, removed and read back."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from flowyard.platform.access import tokens as made_of
from flowyard.platform.access.tokens import Tokens, id_of, parse_lifetime
from flowyard.schemas.errors import ConflictError, InvalidRequestError, NotFoundError

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_token_is_kept_by_its_digest_only():
    tokens, made, text = Tokens().create(["metrics", "inference"], NOW, name="ci")
    assert re.fullmatch(r"fyd_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", text)
    assert made.scopes == ("inference", "metrics")
    assert made.digest == hashlib.sha256(text.encode()).hexdigest()
    assert id_of(text) == made.id
    assert text.split("_", 2)[2].encode() not in msgspec.json.encode(tokens)


def test_no_two_are_alike():
    texts = [Tokens().create(["inference"], NOW)[2] for _ in range(100)]
    assert len(set(texts)) == 100


@pytest.mark.parametrize(
    ("scopes", "name", "error", "words"),
    [
        (["admin"], "", InvalidRequestError, "inference, management, metrics"),
        (["inference", ""], "", InvalidRequestError, "scope ''"),
        ([], "", InvalidRequestError, "needs a scope"),
        (["inference"], "a b", InvalidRequestError, "letters, digits"),
        (["inference"], "-a", InvalidRequestError, "letters, digits"),
        (["inference"], "a" * 65, InvalidRequestError, "up to 64"),
        (["inference"], "../x", InvalidRequestError, "letters, digits"),
        (["inference"], "taken", ConflictError, "taken"),
    ],
)
def test_what_cannot_be_made(scopes, name, error, words):
    tokens, _, _ = Tokens().create(["metrics"], NOW, name="taken")
    with pytest.raises(error, match=words):
        tokens.create(scopes, NOW, name=name)


def test_an_id_is_no_name():
    tokens, made, _ = Tokens().create(["metrics"], NOW, name="x")
    with pytest.raises(ConflictError):
        tokens.create(["metrics"], NOW, name=made.id)


def test_there_are_not_too_many(monkeypatch):
    monkeypatch.setattr(made_of, "MAX_TOKENS", 1)
    tokens, _, _ = Tokens().create(["metrics"], NOW)
    with pytest.raises(InvalidRequestError, match="revoke some"):
        tokens.create(["metrics"], NOW)


def test_time_is_over_at_its_end():
    _, made, _ = Tokens().create(["metrics"], NOW, lifetime=DAY)
    assert not made.is_expired(NOW + DAY - timedelta(seconds=1))
    assert made.is_expired(NOW + DAY)


@pytest.mark.parametrize(
    ("lifetime", "grace", "old_ends", "new_ends"),
    [
        (None, DAY, NOW + 11 * DAY, None),
        (30 * DAY, DAY, NOW + 11 * DAY, NOW + 40 * DAY),
        (10.5 * DAY, DAY, NOW + 10.5 * DAY, NOW + 20.5 * DAY),
    ],
)
def test_rotation(lifetime, grace, old_ends, new_ends):
    tokens, old, _ = Tokens().create(["inference", "metrics"], NOW, name="ci", lifetime=lifetime)
    tokens, new, text = tokens.rotate("ci", NOW + 10 * DAY, grace=grace)
    assert [token.id for token in tokens.tokens] == [old.id, new.id]
    assert (tokens.tokens[0].expires, tokens.tokens[0].replaced_by, tokens.tokens[0].digest) == (old_ends, new.id, old.digest)
    assert (new.name, new.scopes, new.expires, id_of(text)) == ("ci", old.scopes, new_ends, new.id)
    with pytest.raises(ConflictError, match=new.id):
        tokens.rotate(old.id, NOW, grace=DAY)
    again, newest, _ = tokens.rotate("ci", NOW + 10 * DAY, grace=grace)
    assert again.tokens[1].replaced_by == newest.id


def test_a_name_stands_for_all_that_had_it():
    tokens, old, _ = Tokens().create(["inference"], NOW, name="ci")
    tokens, _, _ = tokens.create(["metrics"], NOW, name="other")
    tokens, new, _ = tokens.rotate("ci", NOW, grace=DAY)
    left, gone = tokens.revoke("ci")
    assert [token.name for token in left.tokens] == ["other"]
    assert [token.id for token in gone] == [old.id, new.id]
    left, gone = tokens.revoke(old.id)
    assert [token.id for token in gone] == [old.id]
    for do in (tokens.revoke, lambda name: tokens.rotate(name, NOW, grace=DAY)):
        with pytest.raises(NotFoundError, match="ci, other"):
            do("nobody")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), (" 4w ", 2_419_200), ("36500d", 3_153_600_000)],
)
def test_times(text, seconds):
    assert parse_lifetime(text, "--expires") == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "0s", "0d", "5", "d", "-1d", "1.5d", "1y", "36501d", "99999999w", "9" * 30 + "d", "1d1h", "never", "\uff11d"]
)
def test_what_is_no_time(text):
    with pytest.raises(InvalidRequestError, match=r"--expires .* 15m, 12h, 30d"):
        parse_lifetime(text, "--expires")


@pytest.mark.parametrize("text", ["", "fyd", "fyd_", "abc_def_ghi", "_a_b", "FYD_a_b"])
def test_what_is_no_token(text):
    assert id_of(text) == ""

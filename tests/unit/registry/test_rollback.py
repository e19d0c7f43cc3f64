"""Where a rollback goes, and what is kept for one."""

from __future__ import annotations

import pytest

from flowyard.platform.registry.former import MOST_FORMER, FormerVersions
from flowyard.platform.registry.records import Former, Record
from flowyard.platform.registry.rollback import choose
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic
from flowyard.schemas.errors import ConflictError, ModelNotFoundError
from flowyard.schemas.models import ModelSpec


def record(version, created, name="m"):
    return Record(name=name, version=version, kind="model", url="u", digest=f"d{created}", spec=ModelSpec(), created=str(created))


@pytest.mark.parametrize(
    ("registered", "traffic", "former", "version", "digest", "is_former"),
    [
        ([("v1", 1), ("v2", 2)], NO_TRAFFIC, [], None, "d1", False),
        ([("v1", 1), ("v2", 2), ("v3", 3)], Traffic(default="v2"), [], None, "d1", False),
        ([("v2", 2)], NO_TRAFFIC, [("v1", 1)], None, "d1", True),
        ([("", 2)], NO_TRAFFIC, [("", 1)], None, "d1", True),
        ([("", 1)], NO_TRAFFIC, [("", 2)], "default", "d2", True),
        ([("v1", 1), ("v2", 2)], Traffic(shadows=("v1",)), [("v0", 0)], None, "d0", True),
        ([("v1", 1), ("v2", 2)], Traffic(default="v1"), [], "v2", "d2", False),
        ([], NO_TRAFFIC, [("v1", 1), ("v2", 2)], None, "d2", True),
        ([("v1", 1)], NO_TRAFFIC, [("v1", 1), ("v1", 0)], None, "d0", True),
    ],
)
def test_goes_to_the_version_before_or_the_one_that_is_named(registered, traffic, former, version, digest, is_former):
    chosen = choose("m", [record(*item) for item in registered], traffic, [record(*item) for item in former], version)
    assert (chosen.record.digest, chosen.former) == (digest, is_former)


@pytest.mark.parametrize(
    ("registered", "version", "error"),
    [([("v1", 1)], None, ModelNotFoundError), ([("v1", 1)], "v1", ConflictError), ([("v1", 1)], "v9", ModelNotFoundError)],
)
def test_there_may_be_nowhere_to_go(registered, version, error):
    with pytest.raises(error):
        choose("m", [record(*item) for item in registered], NO_TRAFFIC, [], version)


def kept(number, name="m", ended=0.0):
    return Former(number, ended, record("v", number, name))


def test_so_many_of_a_name_are_kept_for_so_long():
    former = FormerVersions(2, 100.0)
    former.restore([kept(1, ended=50), kept(2, ended=60), kept(3, "n", ended=1), kept(4, ended=70)])
    assert former.over(120.0) == [1, 3]
    assert [item.number for item in former.of("m")] == [2, 4]
    assert former.digests() == ["d2", "d4"]
    assert former.over(165.0) == [2]


def test_of_all_names_together_a_bounded_number_is_kept():
    former = FormerVersions(3, 100.0)
    former.restore(kept(number, f"m{number}") for number in range(MOST_FORMER + 7))
    assert former.over(1.0) == list(range(7))

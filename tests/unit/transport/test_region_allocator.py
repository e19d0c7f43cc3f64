"""Regions never overlap, come back whole, and run out with an answer instead of an error."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowyard.schemas.regions import RegionAllocator
from flowyard.schemas.values import ALIGNMENT_BYTES

CAPACITY = 64 * ALIGNMENT_BYTES


def padded(size: int) -> int:
    return size + -size % ALIGNMENT_BYTES


class Regions(RuleBasedStateMachine):
    """The allocator against a plain list of regions."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = RegionAllocator(CAPACITY)
        self.regions: dict[int, int] = {}

    @rule(size=st.integers(1, 20 * ALIGNMENT_BYTES))
    def allocate(self, size: int) -> None:
        gaps = self.allocator.gaps
        offset = self.allocator.allocate(size)
        fitting = [start for start, end in gaps if end - start >= size]
        assert offset == (fitting[0] if fitting else None)
        if offset is not None:
            assert offset % ALIGNMENT_BYTES == 0
            self.regions[offset] = padded(size)

    @precondition(lambda self: self.regions)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.regions)))
        del self.regions[offset]
        self.allocator.free(offset)
        with pytest.raises(KeyError):
            self.allocator.free(offset)

    @invariant()
    def regions_and_gaps_cover_everything_once(self) -> None:
        used = [(start, start + size) for start, size in self.regions.items()]
        pieces = sorted(used + self.allocator.gaps)
        assert pieces[0][0] == 0
        assert pieces[-1][1] == CAPACITY
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(pieces))
        assert self.allocator.used == sum(self.regions.values())
        assert all(end <= self.allocator.touched for _, end in used)

    @invariant()
    def gaps_never_touch(self) -> None:
        gaps = self.allocator.gaps
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(gaps))

    def teardown(self) -> None:
        for offset in self.regions:
            self.allocator.free(offset)
        assert self.allocator.gaps == [(0, CAPACITY)]
        assert self.allocator.used == 0


TestRegions = Regions.TestCase


@given(st.integers(0, 3 * ALIGNMENT_BYTES))
def test_a_full_one_gives_none(capacity):
    allocator = RegionAllocator(capacity)
    whole = capacity - capacity % ALIGNMENT_BYTES
    assert allocator.allocate(capacity + 1) is None
    assert (allocator.allocate(whole) if whole else None) == (0 if whole else None)
    assert allocator.allocate(1) is None


@pytest.mark.parametrize("size", [0, -1])
def test_a_region_of_nothing_is_refused(size):
    with pytest.raises(ValueError, match="region of"):
        RegionAllocator(CAPACITY).allocate(size)

"""The targets of the fuzzer take their own seeds, each cut and changed a little: what is not fuzzed here, is at least tried."""

from __future__ import annotations

import random

import pytest
from fuzz.targets import TARGETS


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds(name):
    target, seeds = TARGETS[name]
    chance = random.Random(name)
    for seed in seeds():
        target(seed)
        for _ in range(8):
            changed = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                changed[chance.randrange(1, len(changed))] = chance.randrange(256)
            target(bytes(changed[: chance.randint(1, len(changed))]))

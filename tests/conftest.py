"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example may take depends on what else the machine does; a test that is about time says so itself.
settings.register_profile("flowyard", deadline=None)
settings.load_profile("flowyard")

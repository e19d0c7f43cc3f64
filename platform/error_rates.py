"""How many predictions may fail before `/ping` says so: `error_rate_wlm`, `error_rate_server`, `error_rate_any` (DJL §2.8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from flowyard.schemas.errors import InvalidRequestError

ALLOWED = "a number of errors, alone or with the time they may take as an ISO 8601 duration, as 10 or 10/PT5M"
DEFAULT_WINDOW_S = 60.0
MAX_ERRORS = 1_000_000_000
_RATE = re.compile(r"(?P<errors>[0-9]{1,10})(/(?P<window>[Pp].+))?")
#: Days and times, as java.time.Duration reads them; a month has no fixed length.
_DURATION = re.compile(
    r"P(?=.)((?P<d>\d+)D)?(T(?=.)((?P<h>\d+)H)?((?P<m>\d+)M)?((?P<s>\d+(\.\d{1,9})?)S)?)?", re.IGNORECASE | re.ASCII
)
_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}


class Rate(msgspec.Struct, frozen=True):
    """So many errors in so much time are borne."""

    errors: int
    window_s: float = DEFAULT_WINDOW_S


def parse_rate(text: str) -> Rate:
    """Reads `N[/duration]`.

    Raises:
        InvalidRequestError: It is no such text, or no error or no time at all.
    """
    found = _RATE.fullmatch(text.strip())
    window = _DURATION.fullmatch(found["window"]) if found and found["window"] else None
    window_s = sum(float(window[unit] or 0) * size for unit, size in _UNITS_S.items()) if window else DEFAULT_WINDOW_S
    if found is None or (found["window"] and not window) or not 1 <= int(found["errors"]) <= MAX_ERRORS or window_s <= 0:
        raise InvalidRequestError(f"{text[:100]!r} is not a rate; allowed is {ALLOWED}")
    return Rate(int(found["errors"]), window_s)


class ErrorBudget:
    """A bucket of tokens that fills up over the window. An error takes one; where there is none, the server is unwell.

    It is well again once a whole window has passed without an error too many. (DJL Serving stays unwell for ever.)

    Args:
        rate: How many errors are borne.
        now: Monotonic seconds.
    """

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.errors)
        self._filled = now
        self._unwell_until = now

    def failed(self, now: float) -> None:
        """Takes note of an error."""
        refill = (now - self._filled) * self._rate.errors / self._rate.window_s
        self._tokens, self._filled = min(float(self._rate.errors), self._tokens + refill), now
        if self._tokens >= 1:
            self._tokens -= 1
        else:
            self._unwell_until = now + self._rate.window_s

    def is_spent(self, now: float) -> bool:
        """Whether there were too many errors of late."""
        return now < self._unwell_until


class ErrorRates:
    """Counts failed predictions by the status of their answers.

    Args:
        rates: `wlm` (queues and workers), `server` (5xx and 424) and `any` (both), where they are limited.
        wlm_codes: The statuses that say a queue was full or a worker gone.
        clock: Gives monotonic seconds.
    """

    def __init__(self, rates: dict[str, str | None], wlm_codes: Iterable[int], clock: Callable[[], float]) -> None:
        now = clock()
        self._clock = clock
        self._budgets = {kind: ErrorBudget(parse_rate(rate), now) for kind, rate in rates.items() if rate is not None}
        self._wlm_codes = frozenset(wlm_codes)

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return bool(self._budgets)

    def answered(self, status: int) -> None:
        """Takes note of the status of an answer."""
        is_wlm = status in self._wlm_codes
        if not (is_wlm or status >= 500 or status == 424):
            return
        now = self._clock()
        for kind in ("wlm" if is_wlm else "server", "any"):
            if kind in self._budgets:
                self._budgets[kind].failed(now)

    def exceeded(self) -> bool:
        """Whether there were more errors of late than any of the limits bears."""
        now = self._clock()
        return any(budget.is_spent(now) for budget in self._budgets.values())

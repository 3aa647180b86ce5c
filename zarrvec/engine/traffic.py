"""What did some reads cost: how many requests, bytes, and waves of requests that waited for one another?"""

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Traffic:
    """What some reads cost."""

    requests: int = 0
    """Requests that were answered."""
    bytes: int = 0
    """Bytes that came back."""
    rounds: int = 0
    """Waves of requests, each begun when the one before had been answered."""

    def add(self, *together: "Traffic") -> None:
        """Add what went on after this, side by side.

        Examples
        --------
        >>> total = Traffic(requests=1, rounds=1)
        >>> total.add(Traffic(requests=2, rounds=2), Traffic(requests=4, rounds=1))
        >>> total
        Traffic(requests=7, bytes=0, rounds=3)
        """
        self.requests += sum(part.requests for part in together)
        self.bytes += sum(part.bytes for part in together)
        self.rounds += max((part.rounds for part in together), default=0)


_COUNTED: contextvars.ContextVar[Traffic | None] = contextvars.ContextVar("zarrvec_traffic", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Traffic]:
    """Count the reads that the caller's thread or task asks for, and tasks that it starts.

    Reads that go on side by side are counted as if they followed one another; give each a `counting` of its own and
    `Traffic.add` them.
    """
    traffic = Traffic()
    token = _COUNTED.set(traffic)
    try:
        yield traffic
    finally:
        _COUNTED.reset(token)


def count_round() -> None:
    """Note that a wave of requests begins."""
    traffic = _COUNTED.get()
    if traffic is not None:
        traffic.rounds += 1


def count_request(size_bytes: int) -> None:
    """Note that a request was answered."""
    traffic = _COUNTED.get()
    if traffic is not None:
        traffic.requests += 1
        traffic.bytes += size_bytes

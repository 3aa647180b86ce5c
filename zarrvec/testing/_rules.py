"""Which fault, and how much latency, a request through the proxy meets."""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

FaultName: TypeAlias = Literal[
    "slowdown",
    "internal",
    "conflict",
    "reset_before",
    "reset_after",
    "truncate",
    "stall",
    "stall_head",
    "corrupt",
    "delay",
    "slow",
]
REFUSALS: Final = {
    "slowdown": (503, "Service Unavailable", "SlowDown", "Please reduce your request rate."),
    "internal": (500, "Internal Server Error", "InternalError", "We encountered an internal error."),
    "conflict": (409, "Conflict", "ConditionalRequestConflict", "A conflicting operation is in progress."),
    "unreachable": (502, "Bad Gateway", "BadGateway", "The proxy cannot reach the server behind it."),
}
"""Answers given in the server's place: status, reason, S3 error code, message."""
KINDS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", "LIST")
"""Kinds of requests; LIST is a GET of a bucket."""
_DEFAULT_ARGUMENTS: Final = {"truncate": 0.5, "stall": 60.0, "stall_head": 60.0}
_NEEDS_ARGUMENT: Final = frozenset({"delay", "slow"})
_NORMAL_99: Final = 2.3263  # the standard normal's 99th percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """What goes wrong with which requests; of several rules the first that matches applies.

    =============  ==========================================================================
    fault          what the client meets
    =============  ==========================================================================
    slowdown       503 SlowDown; the server never sees the request
    internal       500 InternalError; the server never sees the request
    conflict       409 ConditionalRequestConflict; the server never sees the request
    reset_before   a connection reset; the server never sees the request
    reset_after    a connection reset after the server has carried out the request
    truncate       the connection ends after the fraction `arg` of the body (default 0.5)
    stall          half the body, then silence for `arg` seconds (default 60), then a reset
    stall_head     silence for `arg` seconds (default 60), then a reset; the server has acted
    corrupt        one bit of the body flipped, at byte `arg` (default: the middle)
    delay          `arg` milliseconds more until the first byte
    slow           `arg` bytes a second in both directions
    =============  ==========================================================================

    ``truncate``, ``stall`` and ``corrupt`` do nothing to a response without a body.

    Raises
    ------
    ValueError
        A field has no meaning.
    """

    fault: FaultName
    """What goes wrong."""
    method: str | None = None
    """Only requests of this kind: GET, HEAD, PUT, POST, DELETE or LIST (which GET leaves out)."""
    path: str = ""
    """Only requests in whose target (path and query, as sent) this regular expression is found."""
    skip: int = 0
    """So many matching requests pass unharmed first."""
    times: int | None = 1
    """So many requests are hit; None is without end."""
    p: float = 1.0
    """The probability that a matching request is hit."""
    arg: float | None = None
    """The fault's measure, see above."""

    def __post_init__(self) -> None:
        if self.fault not in get_args(FaultName):
            raise ValueError(
                f"unknown fault {self.fault!r}: expected one of {', '.join(get_args(FaultName))}"
            )
        if self.method is not None and self.method not in KINDS:
            raise ValueError(f"unknown method {self.method!r}: expected None or one of {', '.join(KINDS)}")
        if self.arg is None and self.fault in _NEEDS_ARGUMENT:
            raise ValueError(f"fault {self.fault!r} needs an arg (delay: milliseconds, slow: bytes/s)")
        if self.skip < 0 or (self.times is not None and self.times < 0) or not 0 <= self.p <= 1:
            raise ValueError(
                f"expected skip >= 0, times >= 0 or None, 0 <= p <= 1; got {self.skip}, {self.times}, {self.p}"
            )
        try:
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"path {self.path!r} is not a regular expression: {error}") from error


class ActiveRule:
    """A rule and how often it has yet to apply."""

    def __init__(self, rule: FaultRule) -> None:
        self.fault: str = rule.fault
        self.arg = _DEFAULT_ARGUMENTS.get(rule.fault) if rule.arg is None else rule.arg
        self._method = rule.method
        self._path = re.compile(rule.path)
        self._skip = rule.skip
        self._left = math.inf if rule.times is None else rule.times
        self._p = rule.p

    def hits(self, kind: str, target: str, rng: random.Random) -> bool:
        """Whether the rule applies to a request, which uses it up by one."""
        if not self._left or self._method not in {None, kind} or not self._path.search(target):
            return False
        if self._skip:
            self._skip -= 1
            return False
        if self._p < 1 and rng.random() >= self._p:
            return False
        self._left -= 1
        return True


def latency(spec: str, rng: random.Random) -> Callable[[], float]:
    """Return a sampler, in seconds, of a time to first byte given in milliseconds.

    Parameters
    ----------
    spec
        ``"20"``, ``"uniform:15:30"`` or ``"lognormal:25:150"`` (the median and the 99th percentile).
    rng
        Where the randomness comes from.

    Raises
    ------
    ValueError
        `spec` is none of these.

    Examples
    --------
    >>> latency("20", random.Random())()
    0.02
    """
    name, *rest = spec.split(":")
    try:
        if name == "uniform":
            low, high = map(float, rest)
            return lambda: rng.uniform(low, high) / 1e3
        if name == "lognormal":
            mu, top = (math.log(float(value)) for value in rest)
            return lambda: rng.lognormvariate(mu, (top - mu) / _NORMAL_99) / 1e3
        seconds = float(spec) / 1e3
    except ValueError as error:
        raise ValueError(
            f'ttfb {spec!r}: expected "20", "uniform:15:30" or "lognormal:25:150" (ms)'
        ) from error
    return lambda: seconds

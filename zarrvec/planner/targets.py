"""What does a storage cost: how long is a request, how fast are bytes, and what is billed?

Source: ``specs/planner.md``, section "Targets"; the figures are typical ones, `zarrvec.planner.probe` measures a place.
"""

import os
from dataclasses import dataclass, field
from typing import Final

from zarrvec.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A storage, as one reader or writer sees it."""

    name: str
    get_seconds: float
    """Of a request that reads, to its first byte."""
    put_seconds: float
    """Of a request that writes nothing much."""
    connection_bytes_per_second: float
    """Of one request."""
    read_bytes_per_second: float
    """Of all requests together."""
    write_bytes_per_second: float
    """Of all requests together."""
    concurrency: int
    """Requests that go on side by side without slowing one another."""
    request_cpu_seconds: float
    """Of the client, for each request; one after the other."""
    get_dollars: float = 0.0
    """Of one request."""
    put_dollars: float = 0.0
    gigabyte_month_dollars: float = 0.0
    """Of 10^9 bytes stored for a month."""


TARGETS: Final = {
    target.name: target
    for target in (
        Target(
            name="s3",
            get_seconds=0.020,
            put_seconds=0.040,
            connection_bytes_per_second=85e6,
            read_bytes_per_second=1.2e9,
            write_bytes_per_second=1.2e9,
            concurrency=64,
            request_cpu_seconds=0.3e-3,
            get_dollars=0.0004 / 1000,
            put_dollars=0.005 / 1000,
            gigabyte_month_dollars=0.023,
        ),
        Target(
            name="s3-express",
            get_seconds=0.005,
            put_seconds=0.008,
            connection_bytes_per_second=150e6,
            read_bytes_per_second=1.2e9,
            write_bytes_per_second=1.2e9,
            concurrency=64,
            request_cpu_seconds=0.3e-3,
            get_dollars=0.00003 / 1000,
            put_dollars=0.00113 / 1000,
            gigabyte_month_dollars=0.11,
        ),
        Target(
            name="gcs",
            get_seconds=0.030,
            put_seconds=0.060,
            connection_bytes_per_second=60e6,
            read_bytes_per_second=1.2e9,
            write_bytes_per_second=1.2e9,
            concurrency=64,
            request_cpu_seconds=0.3e-3,
            get_dollars=0.0004 / 1000,
            put_dollars=0.005 / 1000,
            gigabyte_month_dollars=0.020,
        ),
        Target(
            name="local",
            get_seconds=0.15e-3,
            put_seconds=0.5e-3,
            connection_bytes_per_second=1.5e9,
            read_bytes_per_second=2.5e9,
            write_bytes_per_second=1.0e9,
            concurrency=4,
            request_cpu_seconds=0.1e-3,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The computer that reads and writes; `zarrvec.planner.calibrating.calibrated_machine` measures one."""

    threads: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    """Of codecs; zarrvec uses at most 4."""
    speedup: float = field(default_factory=lambda: float(min(4, os.cpu_count() or 1)))
    """How much sooner these threads are done than one."""
    call_seconds: float = 0.86e-3
    """Of an array operation, whatever it takes."""
    commit_seconds: float = 0.82e-3
    """Of an operation that writes, besides."""
    chunk_read_seconds: float = 21e-6
    """Of each chunk that is read: its index, its key, its place."""
    chunk_write_seconds: float = 51e-6
    """Of each chunk that is written."""
    line_pick_seconds: float = 40e-6
    """Of each chunk along the axis of a scattered read: which of its cells are taken."""
    chunk_pick_seconds: float = 11e-6
    """Of each chunk of a scattered read, besides."""
    stored_read_seconds: float = 0.23e-9
    """Of each stored byte that is read: checksum and copy."""
    stored_write_seconds: float = 0.09e-9
    """Of each stored byte that is written: checksum and copies."""
    place_seconds: float = 0.37e-9
    """Of each wanted byte, which is copied from its chunk to where the caller has it."""
    run_seconds: float = 3.3e-9
    """Of each piece that is copied by itself, between chunk and caller."""
    pick_seconds: float = 2.7e-9
    """Of each cell that is taken one by one, by numpy's indexing with arrays."""
    merge_seconds: float = 0.84e-9
    """Of each byte of a chunk that is written, before it is encoded: copies."""


def target_of(target: "str | Target") -> Target:
    """Return a target by its name.

    Raises
    ------
    PlanError
        If there is none of that name.

    Examples
    --------
    >>> target_of("s3").get_seconds
    0.02
    """
    if isinstance(target, Target):
        return target
    given: object = target
    if not isinstance(given, str) or given not in TARGETS:
        raise PlanError(
            f"target={target!r}: expected one of {sorted(TARGETS)}, or a Target that `zarrvec.planner.probe` measured."
        )
    return TARGETS[given]

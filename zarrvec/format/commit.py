"""What does a commit look like, and what is it called?

Source: ``specs/commit.md``.
"""

from typing import Final

import msgspec

from zarrvec.errors import CorruptError
from zarrvec.format.envelope import Kind, unwrap, wrap
from zarrvec.format.records import (
    TIME_LIMIT_US,
    check_clears,
    check_extent,
    check_number,
    check_pack_id,
    check_packs,
    decode_record,
)
from zarrvec.types import WRITE_ID_BYTES, Clear, Location, PackRef

NUMBER_LIMIT: Final = (1 << 64) - 1
SUFFIX: Final = ".commit"
ROOT_INLINE_BYTES: Final = 16 << 10
"""A root up to this size stands in the commit, a larger one in a pack."""


class Commit(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One version: everything that is needed to open it."""

    number: int
    """1 for the first commit of a store."""
    write_id: bytes
    """Random, 16 bytes: tells a commit of mine from another's after a lost response."""
    parent: bytes
    """Write id of the commit before; empty for the first."""
    time_us: int
    """Microseconds since 1970-01-01 UTC by the writer's clock."""
    author: str
    """Who wrote it."""
    message: str
    """Why; empty for an automatic commit."""
    automatic: bool
    """Whether a single call made it, outside of a transaction."""
    root: bytes
    """The root's envelope, or empty."""
    root_at: Location | None
    """Where the root's envelope is, if it is in a pack."""
    root_number: int
    """Number of the commit that wrote the root; 0 stands for this one."""
    delta: bytes
    """Table of the entries changed since the root."""
    clears: list[Clear]
    """Prefixes deleted since the root."""
    packs: list[PackRef]
    """Packs added since the root."""
    writer: str
    """Program that wrote it, for people."""


def commit_name(number: int) -> str:
    """Return the name of a commit inside its branch; the newest sorts first.

    Examples
    --------
    >>> commit_name(1)
    '18446744073709551614.commit'
    """
    return f"{NUMBER_LIMIT - number:020d}{SUFFIX}"


def commit_number(name: str) -> int | None:
    """Return the number in the name of a commit, None if it is not one.

    Examples
    --------
    >>> commit_number("18446744073709551614.commit")
    1
    """
    digits = name.removesuffix(SUFFIX)
    if digits == name or len(digits) != 20 or not digits.isascii() or not digits.isdigit():
        return None
    number = NUMBER_LIMIT - int(digits)
    return number if number > 0 else None


def encode_commit(commit: Commit) -> bytes:
    """Write a commit."""
    return wrap(Kind.COMMIT, msgspec.msgpack.encode(commit))


def decode_commit(data: bytes | memoryview, *, name: str) -> Commit:
    """Read a commit.

    Raises
    ------
    CorruptError
        If a field is missing, of another type or out of range.
    """
    commit = decode_record(unwrap(data, Kind.COMMIT, name=name), Commit, name=name)
    if not 0 < commit.number < NUMBER_LIMIT or len(commit.write_id) != WRITE_ID_BYTES:
        raise CorruptError(f"{name}: number {commit.number} or write id {commit.write_id!r} is out of range.")
    if commit.root and commit.root_at:
        raise CorruptError(f"{name}: the root stands in the commit and in a pack.")
    if len(commit.parent) not in (0, WRITE_ID_BYTES):
        raise CorruptError(f"{name}: the parent's write id {commit.parent!r} is out of range.")
    check_number(commit.time_us, TIME_LIMIT_US, "the time", name=name)
    check_number(commit.root_number, commit.number + 1, "the root's number", name=name)
    check_clears(commit.clears, limit=commit.number + 1, name=name)
    check_packs(commit.packs, name=name)
    if commit.root_at is not None:
        check_pack_id(commit.root_at.pack, name=name)
        check_extent(commit.root_at.offset, commit.root_at.length, "the root", name=name)
    return commit

"""How is a record (a msgpack array of typed fields) read, and which values of its fields can't be?

Every limit here is one that no writer reaches; what is beyond it is damage, and is refused before memory is taken.

Source: ``specs/format.md``, section "Records".
"""

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from zarrvec.errors import CorruptError
from zarrvec.format.envelope import HEADER, MAX_ROOT_BYTES
from zarrvec.format.keys import MAX_KEY_BYTES, first_bad_key
from zarrvec.types import PACK_ID_BYTES, Clear, PackRef

OFFSET_LIMIT: Final = 1 << 62
"""Offsets, and sizes of packs, are below this."""
STRUCTURE_LIMIT: Final = HEADER.size + MAX_ROOT_BYTES + 1
"""Lengths of envelopes are below this."""
TIME_LIMIT_US: Final = 253_402_300_800_000_000
"""Times are before the year 10000."""

_Record = TypeVar("_Record")


def decode_record(payload: bytes, kind: type[_Record], *, name: str) -> _Record:
    """Read a record.

    Raises
    ------
    CorruptError
        If it is no msgpack, a field is missing or of another type, or it is nested without end.
    """
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError) as error:
        raise CorruptError(f"{name}: the record can't be read ({error}).") from error


def check_number(value: int, limit: int, what: str, *, name: str) -> None:
    """Raise `CorruptError` if a number is negative or not below its limit."""
    if not 0 <= value < limit:
        raise CorruptError(f"{name}: {what} is {value}, expected 0 or more and less than {limit}.")


def check_pack_id(pack: bytes, *, name: str) -> None:
    """Raise `CorruptError` if a pack id has another length than 12 bytes."""
    if len(pack) != PACK_ID_BYTES:
        raise CorruptError(f"{name}: a pack id has {len(pack)} bytes, expected {PACK_ID_BYTES}.")


def check_extent(offset: int, length: int, what: str, *, name: str) -> None:
    """Raise `CorruptError` if an envelope can't be where it is said to be."""
    check_number(offset, OFFSET_LIMIT, f"the offset of {what}", name=name)
    if not HEADER.size <= length < STRUCTURE_LIMIT:
        raise CorruptError(
            f"{name}: the length of {what} is {length}, expected {HEADER.size} to {STRUCTURE_LIMIT - 1}."
        )


def check_packs(packs: Iterable[PackRef], *, name: str) -> None:
    """Raise `CorruptError` if a pack's id or size is out of range."""
    for pack, value_bytes in packs:
        check_pack_id(pack, name=name)
        check_number(value_bytes, OFFSET_LIMIT, "the size of a pack", name=name)


def check_clears(clears: Iterable[Clear], *, limit: int, name: str) -> None:
    """Raise `CorruptError` if a prefix can't be one of keys, or a generation is not below its limit."""
    for prefix, generation in clears:
        check_number(generation, limit, f"the generation of the cleared prefix {prefix[:80]!r}", name=name)
        if len(prefix) > MAX_KEY_BYTES or (prefix and first_bad_key([prefix]) is not None):
            raise CorruptError(f"{name}: the cleared prefix {prefix[:80]!r} can't be one of keys.")

"""What does a pack look like, and where in it does each value stand?

A pack is a magic, values each followed by its CRC32C, manifest pages, perhaps a root, a footer that lists them, and a
trailer of fixed size, so that one read of its end finds everything.

Source: ``specs/format.md``, section "Pack".
"""

import struct
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from zarrvec.errors import CorruptError, FormatVersionError
from zarrvec.format.commit import NUMBER_LIMIT
from zarrvec.format.envelope import Kind, crc32c, unwrap, wrap
from zarrvec.format.records import (
    STRUCTURE_LIMIT,
    TIME_LIMIT_US,
    check_clears,
    check_extent,
    check_number,
    check_pack_id,
    decode_record,
)
from zarrvec.format.table import CRC_BYTES
from zarrvec.types import Clear

MAGIC: Final = b"ZVPACK"
END_MAGIC: Final = b"ZVPKEND\x01"
VERSION: Final = 1
HEADER: Final = struct.Struct("<6sBB")
TRAILER: Final = struct.Struct("<II8s")
WHOLE_BYTES: Final = 64 << 10
"""A value of so many bytes is written from where it is; shorter ones are copied, for a part more costs as much."""

T = TypeVar("T", bytes, memoryview)


class Footer(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What a pack holds, enough to rebuild a manifest from packs alone."""

    pack: bytes
    """Id of this pack."""
    base: int
    """Number of the commit that this pack was written on top of."""
    time_us: int
    """When it was made, microseconds since 1970-01-01 UTC."""
    values: bytes
    """Table of the values in this pack."""
    changes: bytes
    """Table of inline values and deleted keys: those of this commit and of the delta it was written on top of,
    less what stands in this pack's pages."""
    clears: list[Clear]
    """Prefixes deleted, of this commit and of that delta."""
    pages: list[tuple[int, int]]
    """Offset and length of each manifest page in this pack."""
    root: tuple[int, int] | None
    """Offset and length of the root in this pack."""


def pack_name(pack: bytes) -> str:
    """Return the path of a pack below the store's root.

    Examples
    --------
    >>> pack_name(bytes(range(12)))
    'packs/00/000102030405060708090a0b.pack'
    """
    name = pack.hex()
    return f"packs/{name[:2]}/{name}.pack"


def value_offsets(lengths: Sequence[int]) -> list[int]:
    """Return where each value stands, from their lengths."""
    offsets = []
    at = HEADER.size
    for length in lengths:
        offsets.append(at)
        at += length + CRC_BYTES
    return offsets


def values_end(lengths: Sequence[int]) -> int:
    """Return where the values end and pages may begin."""
    return HEADER.size + sum(lengths) + CRC_BYTES * len(lengths)


def encode_pack(values: Sequence[bytes], structures: Sequence[bytes], footer: Footer) -> bytes:
    """Write a pack: values, then pages and root, then the footer."""
    return b"".join(pack_parts(values, structures, footer))


def pack_parts(values: Sequence[bytes], structures: Sequence[bytes], footer: Footer) -> list[bytes]:
    """Return a pack as parts that follow each other: long values as they are, all else put together.

    Examples
    --------
    >>> footer = Footer(pack=bytes(12), base=0, time_us=0, values=b"", changes=b"", clears=[], pages=[], root=None)
    >>> long = bytes(WHOLE_BYTES)
    >>> parts = pack_parts([b"a", long, b"b"], [], footer)
    >>> len(parts), parts[1] is long, b"".join(parts) == encode_pack([b"a", long, b"b"], [], footer)
    (3, True, True)
    """
    foot = wrap(Kind.FOOTER, msgspec.msgpack.encode(footer))
    parts: list[bytes] = []
    short = [HEADER.pack(MAGIC, VERSION, 0)]
    for value in values:
        if len(value) >= WHOLE_BYTES:
            parts += [b"".join(short), value]
            short = []
        else:
            short.append(value)
        short.append(crc32c(value).to_bytes(CRC_BYTES, "little"))
    short.extend(structures)
    short.append(foot)
    short.append(TRAILER.pack(len(foot), crc32c(struct.pack("<I", len(foot)) + END_MAGIC), END_MAGIC))
    return [*parts, b"".join(short)]


def footer_length(trailer: bytes | memoryview, *, name: str) -> int:
    """Read the trailer, the last 16 bytes of a pack.

    Raises
    ------
    CorruptError
        If its magic or checksum does not hold.
    """
    if len(trailer) != TRAILER.size:
        raise CorruptError(f"{name}: {len(trailer)} bytes, a trailer has {TRAILER.size}.")
    length, crc, magic = TRAILER.unpack(trailer)
    if magic != END_MAGIC or crc != crc32c(struct.pack("<I", length) + END_MAGIC):
        raise CorruptError(f"{name}: does not end as a pack ends (magic {magic!r}). It was cut short.")
    check_number(length, STRUCTURE_LIMIT, "the length of the footer", name=name)
    return int(length)


def decode_footer(data: bytes | memoryview, *, name: str) -> Footer:
    """Read a footer's envelope.

    Raises
    ------
    CorruptError
        If a field is missing, of another type or out of range.
    """
    footer = decode_record(unwrap(data, Kind.FOOTER, name=name), Footer, name=name)
    check_pack_id(footer.pack, name=name)
    check_number(footer.base, NUMBER_LIMIT, "the base", name=name)
    check_number(footer.time_us, TIME_LIMIT_US, "the time", name=name)
    check_clears(footer.clears, limit=NUMBER_LIMIT, name=name)
    for extent in (*footer.pages, *([] if footer.root is None else [footer.root])):
        check_extent(*extent, "a page or root", name=name)
    return footer


def check_header(data: bytes | memoryview, *, name: str) -> None:
    """Check the first 8 bytes of a pack.

    Raises
    ------
    CorruptError
        If the magic does not hold.
    FormatVersionError
        If it is of a newer version.
    """
    if len(data) < HEADER.size:
        raise CorruptError(f"{name}: {len(data)} bytes, a pack has at least {HEADER.size}.")
    magic, version, flags = HEADER.unpack(data[: HEADER.size])
    if magic != MAGIC:
        raise CorruptError(f"{name}: starts with {magic!r}, expected {MAGIC!r}. It is not a pack.")
    if version < 1:
        raise CorruptError(f"{name}: pack version {version}, the lowest is 1.")
    if version > VERSION or flags:
        raise FormatVersionError(
            f"{name}: pack version {version} with flags {flags:#x}; this zarrvec reads version {VERSION}. Upgrade zarrvec."
        )


def check_value(value: T, stored_crc: bytes | memoryview, *, name: str) -> T:
    """Return the value if its checksum holds.

    Raises
    ------
    CorruptError
        If it does not.
    """
    if crc32c(value) != int.from_bytes(stored_crc, "little"):
        raise CorruptError(
            f"{name}: the value's CRC32C does not match: its bytes changed in storage. "
            "Restore the object from a copy, or write the key again; `zarrvec verify` lists all that is damaged."
        )
    return value

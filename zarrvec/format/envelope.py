"""How is one structure wrapped, so that damage, a newer version and a lying length are seen?

Source: ``specs/format.md``, section "Envelope".
"""

import struct
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Any, Final

import google_crc32c
import numpy as np
from numcodecs import zstd

from zarrvec.errors import CorruptError, FormatVersionError, StorageError

MAGIC: Final = b"ZVEC"
VERSION: Final = 1
FLAG_ZSTD: Final = 1
HEADER: Final = struct.Struct("<4sBBHIII")
MAX_RAW_BYTES: Final = 64 << 20
"""A structure that claims to be larger than this is refused before memory is taken."""
MAX_ROOT_BYTES: Final = 512 << 20
"""The same for a root, which grows with the packs of a store: about 30 bytes for each."""
_CHECKED: Final = HEADER.size - 4
_ZSTD_LEVEL: Final = 3
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SMALL_BYTES: Final = 64
_IS_COMPILED: Final = google_crc32c.implementation == "c"
_READABLE: Final = (bytes, np.ndarray) if _IS_COMPILED else bytes
"""What a checksum is computed of as it is."""
_readable: Final[Callable[[Any], Any]] = partial(np.frombuffer, dtype=np.uint8) if _IS_COMPILED else bytes
"""Makes that of any other buffer: without a copy, where the library takes other than bytes."""


class Kind(IntEnum):
    """What an envelope holds."""

    COMMIT = 1
    ROOT = 2
    PAGE = 3
    FOOTER = 4


def crc32c(data: Any) -> int:
    """Return the CRC32C (Castagnoli) of bytes, or of what any buffer holds, as an unsigned 32-bit number.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    return int(google_crc32c.value(data if isinstance(data, _READABLE) else _readable(data)))


def wrap(kind: Kind, payload: bytes) -> bytes:
    """Wrap a payload, compressed where that makes it shorter.

    Raises
    ------
    StorageError
        If nobody could read it again.

    Examples
    --------
    >>> unwrap(wrap(Kind.PAGE, b"payload"), Kind.PAGE, name="here")
    b'payload'
    """
    if len(payload) > _limit(kind):
        raise StorageError(
            f"a {kind.name.lower()} of {len(payload)} bytes was to be written, the limit is {_limit(kind)}: the store has too many "
            "packs, or a commit too many keys. Nothing of the commit landed. Write it in smaller commits, and with larger packs: "
            "the option pack_bytes."
        )
    stored, flags = payload, 0
    if len(payload) > _SMALL_BYTES:
        packed = bytes(zstd.compress(payload, _ZSTD_LEVEL))
        if len(packed) < len(payload):
            stored, flags = packed, FLAG_ZSTD
    head = HEADER.pack(MAGIC, kind, VERSION, flags, len(stored), len(payload), 0)[:_CHECKED]
    return head + struct.pack("<I", crc32c(head + stored)) + stored


def unwrap(data: bytes | memoryview, kind: Kind, *, name: str) -> bytes:
    """Check an envelope and return its payload.

    Parameters
    ----------
    data
        Exactly the envelope's bytes.
    kind
        What it must hold.
    name
        Object (and place in it) for error messages.

    Raises
    ------
    CorruptError
        If magic, kind, a length or the checksum does not hold.
    FormatVersionError
        If it was written in a newer major version or with a flag unknown here.
    """
    if len(data) < HEADER.size:
        raise CorruptError(
            f"{name}: {len(data)} bytes, but a {kind.name.lower()} has at least {HEADER.size}."
        )
    magic, found_kind, version, flags, stored_length, raw_length, crc = HEADER.unpack(data[: HEADER.size])
    if magic != MAGIC:
        raise CorruptError(
            f"{name}: starts with {magic!r}, expected {MAGIC!r}. It is not an object of zarrvec."
        )
    if version > VERSION:
        raise FormatVersionError(
            f"{name}: written in format version {version}; this zarrvec reads up to {VERSION}. "
            f"Upgrade zarrvec to {version}.0 or newer."
        )
    if version < 1:
        raise CorruptError(f"{name}: format version {version}, the lowest is 1.")
    if len(data) != HEADER.size + stored_length:
        raise CorruptError(
            f"{name}: {len(data)} bytes, but its header says {HEADER.size + stored_length}. It was cut short or mixed up."
        )
    stored = bytes(data[HEADER.size :])
    if crc32c(bytes(data[:_CHECKED]) + stored) != crc:
        raise CorruptError(f"{name}: its CRC32C does not match. The bytes changed after they were written.")
    if flags & ~FLAG_ZSTD:
        raise FormatVersionError(
            f"{name}: has flags {flags:#06x}, this zarrvec knows {FLAG_ZSTD:#06x}. Upgrade zarrvec."
        )
    if found_kind != kind:
        raise CorruptError(
            f"{name}: holds structure {found_kind}, expected {kind.value} ({kind.name.lower()})."
        )
    if raw_length > _limit(kind):
        raise CorruptError(f"{name}: claims {raw_length} bytes, the limit is {_limit(kind)}.")
    if not flags & FLAG_ZSTD:
        if raw_length != stored_length:
            raise CorruptError(f"{name}: not compressed, yet {stored_length} stored for {raw_length} bytes.")
        return stored
    return bytes(unpack_frame(stored, raw_length, name=name))


def unpack_frame(frame: bytes | memoryview, length: int, *, name: str) -> bytearray:
    """Return what a zstd frame holds, which must be so many bytes.

    Raises
    ------
    CorruptError
        If it holds more or fewer, or can't be read.

    Examples
    --------
    >>> unpack_frame(zstd.compress(b"payload"), 7, name="here")
    bytearray(b'payload')
    """
    if _zstd_content_bytes(frame) != length:
        raise CorruptError(f"{name}: its zstd frame does not hold the {length} bytes that are expected.")
    try:
        content = bytearray(length)
        zstd.decompress(frame, content)
    except (RuntimeError, ValueError) as error:
        raise CorruptError(f"{name}: its zstd frame can't be read ({error}).") from error
    return content


def _limit(kind: Kind) -> int:
    return MAX_ROOT_BYTES if kind is Kind.ROOT else MAX_RAW_BYTES


def envelope_length(header: bytes | memoryview) -> int:
    """Return the length of the envelope that starts with these 20 bytes."""
    return HEADER.size + int(HEADER.unpack(header[: HEADER.size])[4])


def _zstd_content_bytes(frame: bytes | memoryview) -> int | None:
    """Read the content size from a frame's header (RFC 8878, 3.1.1.1); None if it has none."""
    if len(frame) < 6 or frame[:4] != _ZSTD_MAGIC:
        return None
    descriptor = frame[4]
    size_flag, single_segment, dictionary_flag = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    if not size_flag and not single_segment:
        return None
    start = 5 + (not single_segment) + (0, 1, 2, 4)[dictionary_flag]
    width = (1, 2, 4, 8)[size_flag]
    content = int.from_bytes(frame[start : start + width], "little")
    return content + 256 if width == 2 else content

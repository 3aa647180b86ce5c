"""Which small values travel between the layers: entries, locations, references.

Source: ``specs/format.md``.
"""

from typing import Final, NamedTuple, Self

import msgspec

VERSION: Final = "0.1.0"
"""Version of zarrvec, written into commits for people to see."""

PACK_ID_BYTES: Final = 12
"""Length of a pack id, random bytes."""

WRITE_ID_BYTES: Final = 16
"""Length of the write id of a commit, random bytes."""


class Location(NamedTuple):
    """A run of bytes inside a pack."""

    pack: bytes
    """Id of the pack, 12 bytes."""
    offset: int
    """First byte, counted from the start of the object."""
    length: int
    """Number of bytes, without the checksum that follows them."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What a version knows of one key: where its value is, its value, or that it was deleted."""

    generation: int
    """Number of the commit that last changed the value; 0 stands for the commit being written."""
    length: int = 0
    """Length of the value in bytes."""
    pack: bytes = b""
    """Id of the pack that holds the value; empty if it is inline or deleted."""
    offset: int = 0
    """Offset of the value in its pack."""
    data: bytes | None = None
    """The value itself when it is held inline."""

    @classmethod
    def inline(cls, data: bytes, *, generation: int = 0) -> Self:
        """Make the entry of a value that is held inline."""
        return cls(generation=generation, length=len(data), data=data)

    @property
    def is_deleted(self) -> bool:
        """Whether the entry says that the key was deleted."""
        return not self.pack and self.data is None

    def at(self, generation: int) -> "Entry":
        """Return the same entry with another generation."""
        return Entry(generation, self.length, self.pack, self.offset, self.data)


class PageRef(msgspec.Struct, frozen=True, gc=False):
    """What a root knows of one manifest page."""

    first: str
    """Smallest key in the page."""
    last: str
    """Largest key in the page."""
    location: Location
    """Where the page's envelope is."""
    count: int
    """Number of entries."""
    number: int
    """Number of the commit that wrote the page; generations of 0 in the page mean it."""
    usage: tuple[tuple[bytes, int], ...]
    """Bytes of values that the page refers to in each pack, checksums not counted."""


class Clear(NamedTuple):
    """A deleted prefix: every key below it that is older is gone."""

    prefix: str
    """Without trailing slash; empty for the whole store."""
    generation: int
    """Number of the commit that cleared it."""


class PackRef(NamedTuple):
    """A pack and what was written into it."""

    pack: bytes
    """Id of the pack, 12 bytes."""
    value_bytes: int
    """Bytes of values in it, checksums not counted, whether or not they are still live."""

"""What does a change rest on, and does it still hold in another version?

Source: ``specs/commit.md``, section "Conflicts".
"""

import asyncio
from dataclasses import dataclass, field

from zarrvec.engine.reader import Reader, Request
from zarrvec.engine.version import Version, View
from zarrvec.format.keys import is_metadata
from zarrvec.layout.delta import Delta
from zarrvec.layout.structure import structure_of
from zarrvec.types import Entry, PackRef


@dataclass(slots=True, kw_only=True)
class Changes:
    """What one call, or one transaction, wants to land."""

    delta: Delta
    """Entries of generation 0, and clears."""
    expects: dict[str, int] = field(default_factory=dict)
    """Generation that a key must still have (0: not be there), for keys that were read to be written."""
    structures: dict[str, bytes] = field(default_factory=dict)
    """What metadata documents must still say of how chunks are stored, for chunks that are written."""
    base: int = 0
    """Number of the version in which they said so."""
    packs: list[PackRef] = field(default_factory=list)
    """Packs that entries refer to, uploaded or on their way."""
    uploads: list[asyncio.Task[None]] = field(default_factory=list)
    """Those on their way; a commit that names them waits for them."""
    kept: dict[str, bytes] = field(default_factory=dict)
    """Values to be kept in memory: they are soon read again, since a part of them was changed or will be."""
    message: str = ""
    """Why; a change with a message has a commit of its own."""
    author: str = ""
    """Who, if not the user of this process."""
    automatic: bool = True
    """Whether a single call made it."""


async def stale_keys(reader: Reader, head: Version, merged: Delta, changes: Changes) -> list[str]:
    """Return the keys on which a change rests and that are others in a version, with other changes on top of it."""
    stale = []
    if changes.structures and (merged or head.number != changes.base):
        stale = await _restructured(reader, View(version=head, overlay=merged), changes)
    keys = list(changes.expects)
    if not keys:
        return stale
    entries = await reader.locate(View(version=head, overlay=merged), keys)
    for key, entry in zip(keys, entries, strict=True):
        if (0 if entry is None else entry.generation or -1) == changes.expects[key]:
            continue
        if not _makes_the_same(key, changes, entry):
            stale.append(key)
    return stale


async def _restructured(reader: Reader, view: View, changes: Changes) -> list[str]:
    """Return the metadata documents that describe other chunks than those that are written."""
    keys = list(changes.structures)
    entries = await reader.locate(view, keys)
    newer = [
        key
        for key, entry in zip(keys, entries, strict=True)
        if entry is not None and not 0 < entry.generation <= changes.base
    ]
    found = await reader.read(view, [Request(key) for key in newer]) if newer else []
    return [
        key
        for key, document in zip(newer, found, strict=True)
        if document is not None and structure_of(document.data) != changes.structures[key]
    ]


def _makes_the_same(key: str, changes: Changes, entry: Entry | None) -> bool:
    """Return whether a stale write is no conflict: it creates the document that is there, or deletes what is gone.

    Two that change a document alike do conflict: each may have grown an array by the same length.
    """
    mine = changes.delta.entries.get(key)
    if mine is None:
        return False
    if mine.is_deleted or entry is None:
        return mine.is_deleted and entry is None
    return not changes.expects[key] and is_metadata(key) and mine.data is not None and mine.data == entry.data

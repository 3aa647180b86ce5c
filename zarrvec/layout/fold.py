"""Which entries leave the delta for manifest pages, which pages are written again for it, and what comes out?

A delta is folded when it has grown beyond 16 KiB. A commit that changes much folds all of it; one that changes little
writes only so many pages again that a small commit stays small (``specs/commit.md``, section "Folding").
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from zarrvec.format.keys import is_below, is_metadata, sort_key
from zarrvec.format.manifest import PAGE_ENTRIES, Root
from zarrvec.layout.delta import Delta
from zarrvec.types import Entry

DELTA_BYTES: Final = 16 << 10
"""A delta larger than this is folded."""
METADATA_BYTES: Final = 32 << 10
"""Metadata documents stay in the delta up to this size, so that opening needs no page."""
INDEX_BYTES: Final = 8 << 10
"""Keys of vector indexes stay in the delta up to this size, so that a search needs no page to find its lists."""
DELTA_LIMIT_BYTES: Final = 8 * DELTA_BYTES
"""A delta larger than this is folded whole, whatever it costs."""
INLINE_BYTES: Final = 512
"""Values up to this size are held inline in pages."""
METADATA_INLINE_BYTES: Final = 64 << 10
"""Metadata documents up to this size are held inline."""
TINY_COMMIT_BYTES: Final = 4 << 10
"""A commit whose values add up to no more than this is one object."""
_ENTRY_BYTES: Final = 24
_IN_INDEX: Final = ".vec/"
"""In the keys of the index of an array, and next to no others."""
_ENTRIES: Final = "/entries/"
"""In those of its posting lists, which a search asks for last."""
_SMALL_FOLD_PAGES: Final = 1
_APPEND_ENTRIES: Final = PAGE_ENTRIES // 4


def entry_bytes(key: str, entry: Entry) -> int:
    """Return about how many bytes an entry takes in a delta."""
    return len(key) + _ENTRY_BYTES + len(entry.data or b"")


def delta_bytes(delta: Delta) -> int:
    """Return about how many bytes a delta takes, without what stays in it: metadata documents and keys of vector indexes."""
    resident = _resident(delta)
    size = sum(entry_bytes(*row) for row in delta.entries.items() if row[0] not in resident)
    return size + sum(len(clear.prefix) + _ENTRY_BYTES for clear in delta.clears)


def is_due(delta: Delta) -> bool:
    """Return whether a delta has grown so large that it is folded."""
    return delta_bytes(delta) > DELTA_BYTES


def loose_bytes(delta: Delta) -> int:
    """Return how many bytes of values stand in a delta that no page would hold inline."""
    return sum(
        len(entry.data)
        for key, entry in delta.entries.items()
        if entry.data is not None and not holds_inline(key, len(entry.data))
    )


def holds_inline(key: str, length: int) -> bool:
    """Return whether a page holds a value of this length itself."""
    return length <= (METADATA_INLINE_BYTES if is_metadata(key) else INLINE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFold:
    """One stretch of the manifest that is written again."""

    page: int | None
    """Number of the page in the old root that is replaced; None where new pages are put in."""
    position: int
    """Where in the old root the new pages go."""
    changes: tuple[tuple[str, Entry], ...]
    """Entries that go into it, in key order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPlan:
    """What a fold does."""

    folds: tuple[PageFold, ...]
    """Stretches to write, by position."""
    dropped: frozenset[int]
    """Pages whose every key was cleared."""
    keys: frozenset[str]
    """Keys that leave the delta."""


def plan_fold(root: Root, delta: Delta, own: Iterable[str]) -> FoldPlan | None:
    """Decide what to fold; None if the delta is small enough to stay.

    Parameters
    ----------
    root
        The pages that the delta stands on.
    delta
        With the changes of the commit being made.
    own
        Keys that this commit changes: much of its own makes it fold everything.
    """
    size = delta_bytes(delta)
    if size <= DELTA_BYTES:
        return None
    resident = _resident(delta)
    foldable = {key: entry for key, entry in delta.entries.items() if key not in resident}
    own_size = sum(entry_bytes(key, foldable[key]) for key in own if key in foldable)
    whole = own_size > DELTA_BYTES or size > DELTA_LIMIT_BYTES
    dropped, partly_cleared = _cleared_pages(root, delta)
    groups = _group(root, foldable)
    if not whole:
        largest = sorted(groups, key=lambda index: -len(groups[index]))[:_SMALL_FOLD_PAGES]
        groups = {
            index: groups[index]
            for index in {*largest, *(partly_cleared & groups.keys()), *(dropped & groups.keys())}
        }
    folds: list[PageFold] = []
    for index in sorted(groups.keys() | partly_cleared):
        folds.extend(_fold_group(root, index, groups.get(index, []), dropped, must=index in partly_cleared))
    keys = frozenset(key for fold in folds for key, _ in fold.changes)
    return FoldPlan(folds=tuple(folds), dropped=frozenset(dropped), keys=keys)


def rewrite(rows: Iterable[tuple[str, Entry]], fold: PageFold, delta: Delta) -> list[tuple[str, Entry]]:
    """Merge a page's old rows with the changes that go into it; cleared and deleted rows fall away."""
    merged = {
        key: entry for key, entry in rows if not any(is_below(key, clear.prefix) for clear in delta.clears)
    }
    added = False
    for key, entry in fold.changes:
        if entry.is_deleted:
            merged.pop(key, None)
        else:
            added = added or key not in merged
            merged[key] = entry
    if not added:
        return list(merged.items())
    return sorted(merged.items(), key=lambda row: sort_key(row[0]))


def rebase_folded(newer: Delta, *, folded: Mapping[str, int], own: Delta, generation: int) -> Delta:
    """Return the delta that goes with folded pages after another commit landed first.

    Only where that commit changed neither the root nor cleared a prefix: then the pages still hold what they should.

    Parameters
    ----------
    newer
        Delta of the commit that landed.
    folded
        Keys that the pages took over, and the generation that each had (0 for own ones).
    own
        Changes of the commit being made; they come after those that landed.
    generation
        Number that it is now tried with.
    """
    result = Delta(dict(newer.entries))
    for clear in own.clears:
        result.entries = {
            key: entry for key, entry in result.entries.items() if not is_below(key, clear.prefix)
        }
    for key, folded_generation in folded.items():
        entry = result.entries.get(key)
        if key in own.entries or (entry is not None and entry.generation == folded_generation):
            result.entries.pop(key, None)
    for key, entry in own.entries.items():
        if key not in folded:
            result.entries[key] = entry.at(generation)
    return result


def _resident(delta: Delta) -> set[str]:
    """Return the metadata documents, and the keys of vector indexes, if all of them may stay in the delta."""
    metadata = [key for key in delta.entries if is_metadata(key)]
    index = [
        key
        for key, entry in delta.entries.items()
        if _IN_INDEX in key and not is_metadata(key) and not entry.is_deleted
    ]
    if _bytes_of(delta, index) > INDEX_BYTES:
        index = [key for key in index if _ENTRIES not in key]
    kept = ((metadata, METADATA_BYTES), (index, INDEX_BYTES))
    return {key for keys, limit in kept if _bytes_of(delta, keys) <= limit for key in keys}


def _bytes_of(delta: Delta, keys: Iterable[str]) -> int:
    return sum(entry_bytes(key, delta.entries[key]) for key in keys)


def _cleared_pages(root: Root, delta: Delta) -> tuple[set[int], set[int]]:
    dropped: set[int] = set()
    partly: set[int] = set()
    for clear in delta.clears:
        for index in root.pages_below(clear.prefix):
            (dropped if root.covers(clear.prefix, index) else partly).add(index)
    return dropped, partly - dropped


def _group(root: Root, foldable: dict[str, Entry]) -> dict[int, list[tuple[str, Entry]]]:
    groups: dict[int, list[tuple[str, Entry]]] = {}
    for key, entry in sorted(foldable.items(), key=lambda row: sort_key(row[0])):
        groups.setdefault(root.page_for(key) if root.pages else 0, []).append((key, entry))
    return groups


def _fold_group(
    root: Root, index: int, changes: list[tuple[str, Entry]], dropped: set[int], *, must: bool
) -> list[PageFold]:
    """Split a group into what its page must take and, if that is much, new pages behind it that need no reading."""
    if not root.pages or index in dropped:
        return [PageFold(page=None, position=index, changes=tuple(changes))]
    last = sort_key(root.pages[index].last)
    behind = next((at for at, (key, _) in enumerate(changes) if sort_key(key) > last), len(changes))
    if len(changes) - behind < _APPEND_ENTRIES:
        return [PageFold(page=index, position=index, changes=tuple(changes))]
    folds = [PageFold(page=None, position=index + 1, changes=tuple(changes[behind:]))]
    if behind or must:
        folds.insert(0, PageFold(page=index, position=index, changes=tuple(changes[:behind])))
    return folds

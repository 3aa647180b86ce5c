"""What has changed on top of a root or a version?

One structure serves the delta of a commit, the changes of a call and the overlay of a transaction.
Source: ``specs/commit.md``, section "Delta".
"""

from collections.abc import Iterable, Iterator

from zarrvec.format.keys import is_below, sort_key
from zarrvec.types import Clear, Entry


class Delta:
    """Changed keys and cleared prefixes; an entry is newer than every clear that it lies below.

    Parameters
    ----------
    entries
        Newest entry of each changed key.
    clears
        Prefixes deleted before those entries were written.

    Examples
    --------
    >>> delta = Delta({"a/x": Entry.inline(b"1")})
    >>> delta.clear("a", 3)
    >>> delta.find("a/x").is_deleted, delta.find("b/x")
    (True, None)
    """

    __slots__ = ("clears", "entries")

    def __init__(self, entries: dict[str, Entry] | None = None, clears: Iterable[Clear] = ()) -> None:
        self.entries: dict[str, Entry] = {} if entries is None else entries
        self.clears: list[Clear] = list(clears)

    def __bool__(self) -> bool:
        return bool(self.entries or self.clears)

    def find(self, key: str) -> Entry | None:
        """Return what is known of a key: an entry, perhaps a deleted one; None means ask below."""
        entry = self.entries.get(key)
        if entry is not None or not self.clears:
            return entry
        generations = [clear.generation for clear in self.clears if is_below(key, clear.prefix)]
        return Entry(max(generations)) if generations else None

    def clear(self, prefix: str, generation: int) -> None:
        """Delete everything below a prefix."""
        self.entries = {key: entry for key, entry in self.entries.items() if not is_below(key, prefix)}
        inside = prefix + "/" if prefix else ""
        self.clears = [
            clear
            for clear in self.clears
            if clear.prefix != prefix and not clear.prefix.startswith(inside or "")
        ]
        self.clears.append(Clear(prefix, generation))

    def copy(self) -> "Delta":
        """Return a copy that can be changed."""
        return Delta(dict(self.entries), self.clears)

    def updated(self, newer: "Delta", generation: int) -> "Delta":
        """Return this delta with newer changes on top, stamped with a generation."""
        result = self.copy()
        for clear in newer.clears:
            result.clear(clear.prefix, generation)
        for key, entry in newer.entries.items():
            result.entries[key] = entry.at(generation)
        return result

    def sorted_rows(self) -> list[tuple[str, Entry]]:
        """Return the entries in key order."""
        return sorted(self.entries.items(), key=lambda row: sort_key(row[0]))

    def below(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """Yield the entries below a prefix."""
        return ((key, entry) for key, entry in self.entries.items() if is_below(key, prefix))

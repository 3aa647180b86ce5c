"""Which old automatic commits are dropped as a writer goes, so that a branch stays short?

Source: ``specs/commit.md``, section "Dropping automatic commits".
"""

from typing import Final

from zarrvec.engine.heads import Heads, branch_prefix, commit_path
from zarrvec.format.commit import commit_number
from zarrvec.objects.protocol import Objects

EVERY: Final = 64
"""A writer looks for commits to drop when it has made one whose number this divides."""
KEEP_NEWEST: Final = 64
"""The newest commits stay, whatever their age."""
KEEP_SECONDS: Final = 600.0
"""Commits younger than this, by the storage's clock, stay."""
LOOK_AT: Final = 4 * EVERY
"""Commits behind the newest and young ones that are looked at; older ones were looked at before."""


class Pruner:
    """Drops automatic commits of one branch that are neither new nor among the newest.

    Parameters
    ----------
    objects, heads
        Of the same store.
    """

    def __init__(self, objects: Objects, heads: Heads) -> None:
        self._objects = objects
        self._heads = heads
        self._kept: set[int] = set()

    def is_due(self, number: int) -> bool:
        """Return whether it is time to look, after a commit of this number."""
        return number % EVERY == 0

    async def prune(self) -> list[int]:
        """Drop what may be dropped; return its numbers."""
        listed = await self._objects.list(branch_prefix(self._heads.branch))
        if len(listed) <= KEEP_NEWEST:
            return []
        limit = max(info.modified for info in listed) - KEEP_SECONDS
        behind = listed[KEEP_NEWEST:]
        first = next((at for at, info in enumerate(behind) if info.modified <= limit), len(behind))
        old = []
        for info in behind[first : first + LOOK_AT]:
            number = commit_number(info.path.rpartition("/")[2])
            if number is None or info.modified > limit or number in self._kept:
                continue
            commit = await self._heads.read(number)
            if commit is not None and commit.automatic:
                old.append(number)
            else:
                self._kept.add(number)
        if old:
            await self._objects.delete([commit_path(self._heads.branch, number) for number in old])
        return old

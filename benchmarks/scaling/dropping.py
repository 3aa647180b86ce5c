"""How many commits does a branch keep under a steady writer? The engine's own pruner, on a branch with a clock that is told the time.

Source: ``specs/commit.md``, section "Dropping automatic commits".
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from zarrvec.engine.heads import branch_prefix, commit_path
from zarrvec.engine.pruning import EVERY, KEEP_NEWEST, KEEP_SECONDS, LOOK_AT, Pruner
from zarrvec.format.commit import commit_number

LISTED_AT_ONCE = 1_000


@dataclass(slots=True)
class _Listed:
    path: str
    modified: float


class _Branch:
    """What the pruner asks of a storage, for one branch of automatic commits; also its heads."""

    branch = "main"

    def __init__(self) -> None:
        self.times: dict[int, float] = {}
        self.gets = self.lists = 0

    async def list(self, prefix: str) -> Sequence[_Listed]:
        assert prefix == branch_prefix(self.branch)
        self.lists += -(-len(self.times) // LISTED_AT_ONCE)
        return [
            _Listed(commit_path(self.branch, number), self.times[number])
            for number in sorted(self.times, reverse=True)
        ]

    async def read(self, _: int) -> Any:
        self.gets += 1
        return SimpleNamespace(automatic=True)

    async def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            number = commit_number(path.rpartition("/")[2])
            assert number is not None
            del self.times[number]


def counted(rate: float, commits: int) -> dict[str, float]:
    """Return what is left after so many commits at so many a second, and what dropping the others cost."""
    there: Any = _Branch()
    pruner = Pruner(there, there)

    async def write() -> None:
        for number in range(1, commits + 1):
            there.times[number] = number / rate
            if pruner.is_due(number):
                await pruner.prune()

    asyncio.run(write())
    return {
        "rate": rate,
        "commits": commits,
        "left": len(there.times),
        "gets": there.gets,
        "lists": there.lists,
    }


def kept(rate: float, commits: int) -> float:
    """Return how many are left by the model.

    A commit is dropped when it is 10 minutes old, if it is among the 256 behind the newest 64 then, at one of the looks that come with
    each 64th commit.
    """
    young = KEEP_SECONDS * rate
    window = KEEP_NEWEST + LOOK_AT
    # looks come with each 64th commit, so a commit is seen last when 256 to 319 newer ones are there
    dropped = min(1.0, max(0.0, (window - young) / EVERY))
    held = max(young, KEEP_NEWEST) + EVERY / 4
    return min(commits, held * dropped + commits * (1 - dropped))

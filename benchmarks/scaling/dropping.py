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

    At each 64th commit all are dropped that are 10 minutes old and not among the newest 64, 256 at most.
    """
    assert LOOK_AT > EVERY
    return min(commits, max(KEEP_SECONDS * rate, KEEP_NEWEST) + commits % EVERY)

"""What do requests, bytes and rounds come to in seconds and dollars?

Prices of S3 Standard and 85 MB/s a connection as `zarrvec.planner.targets` has them; 30 ms for a request that waits.
"""

from dataclasses import dataclass
from typing import Self

from zarrvec.engine.reader import CONCURRENCY
from zarrvec.planner.targets import TARGETS

LATENCY_SECONDS = 0.03
S3 = TARGETS["s3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an operation costs, or a mean of some."""

    lists: float = 0.0
    gets: float = 0.0
    puts: float = 0.0
    """PUT and POST."""
    rounds: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0

    @property
    def requests(self) -> float:
        return self.lists + self.gets + self.puts

    def __add__(self, other: Self) -> "Work":
        return Work(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def __mul__(self, times: float) -> "Work":
        return Work(**{name: getattr(self, name) * times for name in self.__slots__})

    @property
    def seconds(self) -> float:
        """Return how long it takes: each round waits once, and bytes come by as many connections as a round has requests."""
        side_by_side = min(CONCURRENCY, max(1.0, self.requests / max(1.0, self.rounds)))
        rate = min(S3.read_bytes_per_second, side_by_side * S3.connection_bytes_per_second)
        return self.rounds * LATENCY_SECONDS + (self.read_bytes + self.written_bytes) / rate

    @property
    def dollars(self) -> float:
        """Return the price of the requests; failed ones cost as much, bytes within a region nothing."""
        return self.gets * S3.get_dollars + (self.puts + self.lists) * S3.put_dollars

"""How many requests, bytes and sequential rounds a piece of work costs, and whether it survives faults.

A proxy in front of any S3 endpoint over plain HTTP, in a process of its own: it counts every request a client
really sends, retries included, adds latency, and makes chosen requests fail in chosen ways. On the command line:

    python -m zarrvec.testing.proxy --upstream http://127.0.0.1:8333 --port 19100 --ttfb lognormal:25:150

Then ``POST /_zarrvec/configure`` with a JSON object of settings, ``POST /_zarrvec/reset``, and
``GET /_zarrvec/log`` on the same port do what `S3Proxy.configure`, `S3Proxy.reset` and `S3Proxy.stats` do.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from zarrvec.testing._process import HelperProcess
from zarrvec.testing._relay import CONTROL_PREFIX, run
from zarrvec.testing._rules import KINDS, FaultName, FaultRule

__all__ = ["FaultName", "FaultRule", "ProxyStats", "RequestCount", "RequestRecord", "S3Proxy", "count_rounds"]

_START_SECONDS: Final = 30.0
_CONTROL_SECONDS: Final = 30.0
_IMPORT_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request that a client sent."""

    number: int
    """Its place in the order of arrival."""
    kind: str
    """GET, HEAD, PUT, POST, DELETE, or LIST (a GET of a bucket)."""
    target: str
    """Path and query, as sent."""
    range: str
    """The Range field, as sent; empty if there was none."""
    start: float
    """When its head had arrived, in seconds of the system's monotonic clock."""
    end: float
    """When the last of the response had been sent; the time of the question if that is yet to come."""
    status: int
    """The response's status; 0 if there was none."""
    bytes_in: int
    """Bytes of the request's body."""
    bytes_out: int
    """Bytes of the response's body that the client was sent."""
    fault: str | None
    """The fault it met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStats:
    """What went through the proxy."""

    requests: Mapping[str, int]
    """The number of requests by kind; each of the six kinds is there."""
    total_requests: int
    """The number of requests."""
    bytes_in: int
    """Bytes of all requests' bodies."""
    bytes_out: int
    """Bytes of all responses' bodies."""
    rounds: int
    """The number of sequential rounds, see `count_rounds`."""
    max_in_flight: int
    """The largest number of requests at one time."""
    faults: Mapping[str, int]
    """The number of requests by the fault they met."""
    log: tuple[RequestRecord, ...]
    """The requests in their order of arrival."""

    @classmethod
    def of(cls, log: Iterable[RequestRecord]) -> Self:
        """Sum up a log."""
        records = tuple(sorted(log, key=lambda record: record.number))
        return cls(
            requests=dict.fromkeys(KINDS, 0) | Counter(record.kind for record in records),
            total_requests=len(records),
            bytes_in=sum(record.bytes_in for record in records),
            bytes_out=sum(record.bytes_out for record in records),
            rounds=count_rounds((record.start, record.end) for record in records),
            max_in_flight=_max_in_flight(records),
            faults=Counter(record.fault for record in records if record.fault is not None),
            log=records,
        )


class RequestCount:
    """The requests of a ``with proxy.counting() as count:`` block, known once the block has ended."""

    def __init__(self) -> None:
        self._stats: ProxyStats | None = None

    @property
    def stats(self) -> ProxyStats:
        """All that was counted."""
        if self._stats is None:
            raise RuntimeError("the count is known after the `with proxy.counting()` block, not inside it")
        return self._stats

    @property
    def requests(self) -> Mapping[str, int]:
        """The number of requests by kind."""
        return self.stats.requests

    @property
    def total_requests(self) -> int:
        """The number of requests."""
        return self.stats.total_requests

    @property
    def bytes_in(self) -> int:
        """Bytes of all requests' bodies."""
        return self.stats.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes of all responses' bodies."""
        return self.stats.bytes_out

    @property
    def rounds(self) -> int:
        """The number of sequential rounds."""
        return self.stats.rounds

    @property
    def log(self) -> tuple[RequestRecord, ...]:
        """The requests in their order of arrival."""
        return self.stats.log


class S3Proxy:
    """A proxy in front of an S3 endpoint; use it as a context manager.

    Clients keep their credentials and put `endpoint_url` in place of the server's.

    Parameters
    ----------
    upstream_url
        The endpoint behind the proxy, ``http://host:port``.
    ttfb
        Milliseconds from a request to the first byte of its response: ``"20"``, ``"uniform:15:30"``, or
        ``"lognormal:25:150"`` (the median and the 99th percentile). Half of it passes before the request is
        forwarded, and it is a floor: what the server itself takes is part of it.
    bandwidth
        Bytes a second, of each connection and direction; 0 is without limit.
    connect_ms
        Milliseconds that a new connection's first request waits.
    seed
        Of the random numbers for latencies and for rules with a probability.
    port
        The loopback port to listen on; 0 is any free one.

    Raises
    ------
    ValueError
        `upstream_url` is not of that form.
    RuntimeError
        On entry: the proxy does not start.
    """

    def __init__(
        self,
        upstream_url: str,
        *,
        ttfb: str = "0",
        bandwidth: float = 0,
        connect_ms: float = 0,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        _address(upstream_url)
        self.upstream_url = upstream_url
        self._arguments = {
            "ttfb": ttfb, "bandwidth": bandwidth, "connect-ms": connect_ms, "seed": seed, "port": port
        }  # fmt: skip
        self._endpoint_url: str | None = None
        self._process: HelperProcess | None = None

    @property
    def endpoint_url(self) -> str:
        """Where the proxy listens, as ``http://127.0.0.1:port``."""
        if self._endpoint_url is None:
            raise RuntimeError("the proxy is not running: use it as `with S3Proxy(url) as proxy:`")
        return self._endpoint_url

    def start(self) -> None:
        """Start the proxy and wait until it listens."""
        if self._process is not None:
            return
        options = [f"--{name}={value}" for name, value in self._arguments.items()]
        paths = [str(_IMPORT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = HelperProcess(
            [
                sys.executable,
                "-P",
                "-m",
                "zarrvec.testing.proxy",
                f"--upstream={self.upstream_url}",
                *options,
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        line = process.read_line(_START_SECONDS)
        if not line:
            process.end()
            raise RuntimeError(
                f"the proxy in front of {self.upstream_url} did not start: see its output above"
            )
        self._process, self._endpoint_url = process, line.decode().strip()

    def close(self) -> None:
        """End the proxy; a forked child's copy of the object does nothing."""
        if self._process is not None:
            self._process.end()
            self._process = self._endpoint_url = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def configure(
        self,
        *,
        ttfb: str | None = None,
        bandwidth: float | None = None,
        connect_ms: float | None = None,
        seed: int | None = None,
        rules: Sequence[FaultRule] | None = None,
    ) -> None:
        """Change what is given, from the next request on; `rules` replace all earlier ones.

        Raises
        ------
        ValueError
            A setting has no meaning; then nothing has changed.
        """
        settings = {
            "ttfb": ttfb,
            "bandwidth": bandwidth,
            "connect_ms": connect_ms,
            "seed": seed,
            "rules": None if rules is None else [dataclasses.asdict(rule) for rule in rules],
        }
        self._ask("POST", "configure", settings)

    def reset(self) -> None:
        """Forget the log and all rules, and return to the latency and bandwidth of the constructor."""
        self._ask("POST", "reset")

    def stats(self) -> ProxyStats:
        """Return what went through the proxy since its start or the last `reset`."""
        return self._stats_after(0)

    @contextlib.contextmanager
    def counting(self) -> Iterator[RequestCount]:
        """Count the requests that arrive during a ``with`` block; the log goes on as it was.

        Examples
        --------
        >>> with proxy.counting() as count:  # doctest: +SKIP
        ...     array[:10]
        >>> count.requests["GET"], count.rounds  # doctest: +SKIP
        (3, 2)
        """
        count = RequestCount()
        mark = self._ask("GET", "mark")
        try:
            yield count
        finally:
            count._stats = self._stats_after(mark)

    def _stats_after(self, number: int) -> ProxyStats:
        return ProxyStats.of(RequestRecord(**values) for values in self._ask("GET", f"log/{number}"))

    def _ask(self, method: str, verb: str, content: Any = None) -> Any:
        host, port = _address(self.endpoint_url)
        connection = http.client.HTTPConnection(host, port, timeout=_CONTROL_SECONDS)
        try:
            connection.request(method, CONTROL_PREFIX + verb, body=json.dumps(content))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise ValueError(f"the proxy refused to {verb}: {answer}")
        return answer


def count_rounds(intervals: Iterable[tuple[float, float]]) -> int:
    """Return the number of sequential rounds of requests.

    A request that starts after every earlier request of the current round has ended begins a new round, so the
    number is the shortest chain of waits that latency multiplies.

    Parameters
    ----------
    intervals
        The requests' times (start, end).

    Examples
    --------
    >>> count_rounds([(0, 2), (1, 3), (3, 4)])
    2
    """
    rounds = 0
    latest_end = float("-inf")
    for start, end in sorted(intervals):
        if start >= latest_end:
            rounds += 1
        latest_end = max(latest_end, end)
    return rounds


def _max_in_flight(records: Iterable[RequestRecord]) -> int:
    changes = sorted(
        change for record in records for change in ((record.start, 1), (max(record.start, record.end), -1))
    )
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None or parts.path.strip("/"):
        raise ValueError(
            f"{url!r} cannot be proxied: expected http://host:port (signed bytes pass unencrypted)"
        )
    return parts.hostname, parts.port or 80


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the proxy until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m zarrvec.testing.proxy",
        description="Latency, faults and counts in front of an S3 endpoint.",
    )
    option = parser.add_argument
    option(
        "--upstream", type=_address, required=True, metavar="http://HOST:PORT", help="the endpoint behind it"
    )
    option("--port", type=int, default=0, help="the loopback port to listen on (default: any free one)")
    option("--ttfb", default="0", help="ms to the first byte: 20, uniform:15:30, lognormal:P50:P99")
    option(
        "--bandwidth", type=float, default=0, help="bytes/s of each connection and direction (0: no limit)"
    )
    option("--connect-ms", type=float, default=0, help="ms that a new connection's first request waits")
    option("--seed", type=int, default=0, help="of the random latencies and faults")
    settings = vars(parser.parse_args(arguments))
    upstream, port = settings.pop("upstream"), settings.pop("port")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(upstream, port, settings))


if __name__ == "__main__":
    main()

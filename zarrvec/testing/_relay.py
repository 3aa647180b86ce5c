"""What happens to one exchange between an S3 client and an S3 server under latency and faults.

Rules that hold here: bytes are forwarded as they came (Host too, so signatures stay valid); a request is in the
log from the moment its head is read, and has ended in the log before its client can see the response's end.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from zarrvec.testing._rules import REFUSALS, ActiveRule, FaultRule, latency
from zarrvec.testing._wire import (
    Fields,
    Piece,
    body_pieces,
    final_head,
    has_request_body,
    has_response_body,
    kind_of,
    parse_head,
)

CONTROL_PREFIX: Final = "/_zarrvec/"  # no bucket may have such a name
_BUFFER_BYTES: Final = 1024 * 1024
_TIMER_SECONDS: Final = 0.002  # an event loop's timers are about this late; a pacer makes up for no more


@dataclass(slots=True)
class Record:
    """One request in the log; its times are of the system's monotonic clock."""

    number: int
    kind: str
    target: str
    range: str
    start: float
    end: float | None = None
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    fault: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the fields by name; a request in flight ends now."""
        result = {name: getattr(self, name) for name in Record.__dataclass_fields__}
        return result | {"end": time.monotonic() if self.end is None else self.end}


class _Pacer:
    """Holds bytes back to a rate; 0 is no limit."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()

    async def take(self, n_bytes: int) -> None:
        if self._rate:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _TIMER_SECONDS) + n_bytes / self._rate
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)


class _Link:
    """One client connection and the upstream connection that serves it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        _no_delay(writer)

    async def upstream(self, address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream is None or self._upstream[0].at_eof():
            self.drop_upstream()
            self._upstream = await asyncio.open_connection(*address, limit=_BUFFER_BYTES)
            _no_delay(self._upstream[1])
        return self._upstream

    def drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream[1].transport.abort()
            self._upstream = None

    def reset(self) -> None:
        """End the client's connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self, seconds: float) -> None:
        """Say nothing until the client gives up or the time has passed, then reset."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(seconds):
                await self.reader.read(1)
        self.reset()

    def close(self) -> None:
        self.drop_upstream()
        self.writer.close()


class Relay:
    """The proxy's state: where it forwards to, its latency, its fault rules, its log."""

    def __init__(self, upstream: tuple[str, int], settings: dict[str, Any]) -> None:
        self._address = upstream
        self._initial = {"ttfb": "0", "bandwidth": 0, "connect_ms": 0, "seed": 0, "rules": []} | settings
        self._rng = random.Random()  # noqa: S311 - latency, not secrets
        self._sample_delay: Callable[[], float]
        self._last_number = 0
        self.reset()

    def reset(self) -> None:
        """Forget the log and the rules, and return to the latency of the start."""
        self._log: list[Record] = []
        self.configure(self._initial)

    def configure(self, settings: dict[str, Any]) -> None:
        """Change the given settings; ValueError, and no change, if one of them makes no sense."""
        unknown = settings.keys() - self._initial.keys()
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}: expected some of {sorted(self._initial)}")
        new = {name: value for name, value in settings.items() if value is not None}
        rules = [ActiveRule(FaultRule(**rule)) for rule in new.get("rules", [])]
        sample = latency(str(new.get("ttfb", "0")), self._rng)
        bandwidth, connect_ms = float(new.get("bandwidth", 0)), float(new.get("connect_ms", 0))
        if "rules" in new:
            self._rules = rules
        if "ttfb" in new:
            self._sample_delay = sample
        if "bandwidth" in new:
            self._bandwidth = bandwidth
        if "connect_ms" in new:
            self._connect_seconds = connect_ms / 1e3
        if "seed" in new:
            self._rng.seed(new["seed"])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection until either side ends it."""
        link = _Link(reader, writer)
        connect_seconds = self._connect_seconds
        # A side that goes away is the client's business, not the proxy's.
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    start = time.monotonic()
                    first, fields = parse_head(head)
                    method, target = first.decode("latin-1").split(" ")[:2]
                    if target.startswith(CONTROL_PREFIX):
                        await self._control(link, target, fields)
                        continue
                    self._last_number += 1
                    asked = fields.get(b"range", b"").decode("latin-1")
                    record = Record(self._last_number, kind_of(method, target), target, asked, start)
                    self._log.append(record)
                    await asyncio.sleep(connect_seconds)
                    connect_seconds = 0.0
                    try:
                        if not await self._answer(link, record, head, fields):
                            return
                    finally:
                        record.end = record.end or time.monotonic()
            finally:
                link.close()

    async def _answer(self, link: _Link, record: Record, head: bytes, fields: Fields) -> bool:
        """Answer one request; whether the connection lives on."""
        rule = next((rule for rule in self._rules if rule.hits(record.kind, record.target, self._rng)), None)
        record.fault, arg = (None, 0.0) if rule is None else (rule.fault, rule.arg or 0.0)
        delay = self._sample_delay() + (arg / 1e3 if record.fault == "delay" else 0.0)
        if record.fault == "reset_before":
            link.reset()
            return False
        if record.fault in REFUSALS:
            return await _refuse(link, record, fields, record.fault, delay)
        try:
            up_reader, up_writer = await link.upstream(self._address)
        except OSError:
            return await _refuse(link, record, fields, "unreachable", delay)
        await asyncio.sleep(delay / 2)
        up_writer.write(head)
        rate = arg if record.fault == "slow" else self._bandwidth
        uploading: asyncio.Task[bool] | None = None
        if has_request_body(fields):
            uploading = asyncio.create_task(_upload(link, up_writer, record, fields, _Pacer(rate)))
        try:
            reply, record.status, reply_fields = await final_head(up_reader, link.writer)
            pieces = body_pieces(up_reader, reply_fields, until_close=True)
            if not has_response_body(record.kind, record.status):
                pieces = _replay([])
            ready_at = record.start + delay
            unsent = False
            if uploading is not None and not uploading.done() and record.status >= 300:
                # A server that refuses early reads no further and soon resets: take its answer out first.
                pieces = _replay([piece async for piece in pieces])
                link.drop_upstream()
                # A client that asked first (Expect) may never send the body (RFC 9110, section 10.1.1).
                unsent = b"expect" in fields
            if uploading is not None and unsent:
                uploading.cancel()  # nobody else may listen to the client
                with contextlib.suppress(asyncio.CancelledError):
                    await uploading
            elif uploading is not None:
                if not await uploading:
                    link.drop_upstream()
                ready_at = time.monotonic() + delay / 2
            if record.fault == "stall_head":
                await link.hang(arg)
                return False
            if record.fault == "reset_after":
                async for _ in pieces:
                    pass
                link.reset()
                return False
            await asyncio.sleep(max(0.0, ready_at - time.monotonic()))
            whole = await _download(link, pieces, record, reply, reply_fields, rule=rule, pacer=_Pacer(rate))
            return whole and not unsent and b"close" not in reply_fields.get(b"connection", b"").lower()
        finally:
            if uploading is not None:
                uploading.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
                    await uploading

    async def _control(self, link: _Link, target: str, fields: Fields) -> None:
        body = await link.reader.readexactly(int(fields.get(b"content-length", 0)))
        verb, _, argument = target.removeprefix(CONTROL_PREFIX).partition("/")
        status, result = "200 OK", None
        try:
            result = self._obey(verb, argument, body)
        except (ValueError, TypeError) as error:
            status, result = "400 Bad Request", str(error)
        answer = json.dumps(result).encode()
        link.writer.write(_head(status, "application/json", len(answer)) + answer)
        await link.writer.drain()

    def _obey(self, verb: str, argument: str, body: bytes) -> Any:
        match verb:
            case "reset":
                return self.reset()
            case "configure":
                settings = json.loads(body)
                if not isinstance(settings, dict):
                    raise TypeError(f"expected a JSON object of settings, got {settings!r}")
                return self.configure(settings)
            case "mark":
                return self._last_number
            case "log":
                after = int(argument or 0)
                return [record.values() for record in self._log if record.number > after]
            case _:
                raise ValueError(f"unknown verb {verb!r}: expected reset, configure, mark or log")


async def run(upstream: tuple[str, int], port: int, settings: dict[str, Any]) -> None:
    """Serve on a loopback port (0: any), after writing the address as a line to the output."""
    relay = Relay(upstream, settings)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", port, limit=_BUFFER_BYTES, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def _head(status: str, content_type: str, length_bytes: int) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length_bytes}\r\n\r\n".encode()


async def _refuse(link: _Link, record: Record, fields: Fields, name: str, delay_seconds: float) -> bool:
    """Answer in the server's place."""
    if b"expect" in fields:
        link.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    async for _, payload, _ in body_pieces(link.reader, fields):
        record.bytes_in += len(payload)
    await asyncio.sleep(delay_seconds)
    record.status, reason, code, message = REFUSALS[name]
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    head = _head(f"{record.status} {reason}", "application/xml", len(body))
    record.bytes_out = len(body) if has_response_body(record.kind, record.status) else 0
    link.writer.write(head + body[: record.bytes_out])
    record.end = time.monotonic()
    await link.writer.drain()
    return True


async def _upload(
    link: _Link, upstream: asyncio.StreamWriter, record: Record, fields: Fields, pacer: _Pacer
) -> bool:
    """Forward a request's body; whether the server took it all (what it did not is read and dropped)."""
    taken = True
    try:
        async for before, payload, after in body_pieces(link.reader, fields):
            record.bytes_in += len(payload)
            await pacer.take(len(payload))
            if taken:
                try:
                    upstream.write(before + payload + after)
                    await upstream.drain()
                except OSError:
                    taken = False
    except (OSError, EOFError):
        link.drop_upstream()  # else the server, and whoever waits for its answer, waits for the rest
        raise
    return taken


async def _download(
    link: _Link,
    pieces: AsyncIterator[Piece],
    record: Record,
    head: bytes,
    fields: Fields,
    *,
    rule: ActiveRule | None,
    pacer: _Pacer,
) -> bool:
    """Forward a response; whether the client's connection can be used again."""
    link.writer.write(head)
    record.end = time.monotonic()
    cut: int | None = None
    flip: int | None = None
    async for before, wire, after in pieces:
        payload = wire
        if rule is not None and not record.bytes_out:
            # Of a chunked body only the first chunk's length is known.
            length = int(fields.get(b"content-length", len(payload)))
            if rule.fault in {"truncate", "stall"}:
                cut = int(length * (rule.arg or 0.0 if rule.fault == "truncate" else 0.5))
            elif rule.fault == "corrupt":
                flip = length // 2 if rule.arg is None else int(rule.arg)
        await pacer.take(len(payload))
        if cut is not None and record.bytes_out + len(payload) >= cut:
            link.writer.write(before + payload[: cut - record.bytes_out])
            record.bytes_out, record.end = cut, time.monotonic()
            link.drop_upstream()
            await link.writer.drain()
            if rule is not None and rule.fault == "stall":
                await link.hang(rule.arg or 0.0)
                record.end = time.monotonic()
            return False
        if flip is not None and 0 <= (at := flip - record.bytes_out) < len(payload):
            payload = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        link.writer.write(before + payload + after)
        record.bytes_out += len(payload)
        record.end = time.monotonic()
        await link.writer.drain()
    await link.writer.drain()
    delimited = b"content-length" in fields or b"transfer-encoding" in fields
    return delimited or not has_response_body(record.kind, record.status)


async def _replay(pieces: Iterable[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece


def _no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

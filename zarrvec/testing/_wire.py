"""How an HTTP/1.1 message is taken apart without changing a byte of it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Final, TypeAlias

Fields: TypeAlias = dict[bytes, bytes]
Piece: TypeAlias = tuple[bytes, bytes, bytes]
"""Framing, payload, framing: joined, a part of a body as it is on the wire."""
_PIECE_BYTES: Final = 256 * 1024


def parse_head(head: bytes) -> tuple[bytes, Fields]:
    """Split a message's head into its first line and its fields, names in lower case."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}


def kind_of(method: str, target: str) -> str:
    """Return the method, or LIST for a GET of a bucket or of the service (path-style addressing)."""
    path = target.partition("?")[0].strip("/")
    return "LIST" if method == "GET" and "/" not in path else method


def has_request_body(fields: Fields) -> bool:
    """Whether a request with these fields carries a body (RFC 9112, section 6.3)."""
    return fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields


def has_response_body(kind: str, status: int) -> bool:
    """Whether a response with this status to this kind of request carries a body."""
    return kind != "HEAD" and status not in {204, 304}


async def body_pieces(
    reader: asyncio.StreamReader, fields: Fields, *, until_close: bool = False
) -> AsyncIterator[Piece]:
    """Yield a body piece by piece.

    A body without a stated length is empty, or with `until_close` goes on until the connection ends.
    """
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        while size := int((line := await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            chunk = await reader.readexactly(size + 2)
            yield line, chunk[:-2], chunk[-2:]
        while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
            line += trailer
        yield line, b"", trailer
        return
    known = b"content-length" in fields or not until_close
    left = int(fields.get(b"content-length", 0)) if known else sys.maxsize
    while left:
        piece = await reader.read(min(left, _PIECE_BYTES))
        if not piece:
            if known:
                raise ConnectionResetError(f"the connection ended {left} bytes before the body did")
            return
        left -= len(piece)
        yield b"", piece, b""


async def final_head(reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> tuple[bytes, int, Fields]:
    """Read a response's head, its status and its fields; interim ones (100 Continue) go to the client."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        first, fields = parse_head(head)
        status = int(first.split(b" ")[1])
        if status >= 200:  # RFC 9110, section 15.2
            return head, status, fields
        client.write(head)

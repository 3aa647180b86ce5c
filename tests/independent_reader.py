"""Reads a zarrvec store on local files, from ``specs/`` alone: it shares no code with zarrvec.

Standard library and numpy; zstd comes from numcodecs (any decoder will do). It proves that the specifications say
enough, and stays the last resort for whoever has a store and no zarrvec. It checks every checksum it meets.
"""

import re
import struct
import sys
from pathlib import Path

import numpy as np
from numcodecs import zstd

INLINE, DELETED = 0xFFFFFFFF, 0xFFFFFFFE


class UnreadableError(Exception):
    """The store is not what the specifications say."""


def expect(holds, what):
    if not holds:
        raise UnreadableError(what)


# -- CRC32C: the reversed Castagnoli polynomial, eight bytes at a time over a table of shifts -------------------------


def _tables():
    first = np.zeros(256, np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        first[byte] = crc
    tables = [first]
    for _ in range(7):
        tables.append(tables[-1] >> np.uint32(8) ^ first[tables[-1] & np.uint32(0xFF)])
    return [table.tolist() for table in tables]


T = _tables()


def crc32c(data):
    crc = 0xFFFFFFFF
    whole = len(data) // 8 * 8
    t0, t1, t2, t3, t4, t5, t6, t7 = T
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        x = word ^ crc
        crc = (
            t7[x & 255] ^ t6[x >> 8 & 255] ^ t5[x >> 16 & 255] ^ t4[x >> 24 & 255]
            ^ t3[x >> 32 & 255] ^ t2[x >> 40 & 255] ^ t1[x >> 48 & 255] ^ t0[x >> 56]
        )  # fmt: skip
    for byte in data[whole:]:
        crc = t0[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# -- MessagePack: what the records use -------------------------------------------------------------------------------


def unpack(data):
    value, at = _unpack(data, 0)
    expect(at == len(data), "bytes follow the record")
    return value


def _unpack(data, at):
    code = data[at]
    at += 1
    if code <= 0x7F:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if 0x90 <= code <= 0x9F:
        return _list(data, at, code & 15)
    if 0xA0 <= code <= 0xBF:
        return data[at : at + (code & 31)].decode(), at + (code & 31)
    if code in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[code], at
    scalar = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
    if code in scalar:
        return struct.unpack_from(scalar[code], data, at)[0], at + struct.calcsize(scalar[code])
    sized = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I"}
    expect(code in sized, f"msgpack code {code:#x} is not used in records")
    size = struct.unpack_from(sized[code], data, at)[0]
    at += struct.calcsize(sized[code])
    if code >= 0xDC:
        return _list(data, at, size)
    raw = data[at : at + size]
    expect(len(raw) == size, "a record is cut short")
    return (raw.decode() if code >= 0xD9 else raw), at + size


def _list(data, at, count):
    values = []
    for _ in range(count):
        value, at = _unpack(data, at)
        values.append(value)
    return values, at


# -- structures ------------------------------------------------------------------------------------------------------


def open_envelope(data, kind):
    magic, found, version, flags, stored_length, raw_length, crc = struct.unpack("<4sBBHIII", data[:20])
    stored = data[20:]
    expect(
        magic == b"ZVEC" and version == 1 and found == kind and not flags & ~1, "not the envelope expected"
    )
    expect(len(stored) == stored_length and crc32c(data[:16] + stored) == crc, "an envelope's checksum")
    payload = bytes(zstd.decompress(stored)) if flags & 1 else stored
    expect(len(payload) == raw_length, "an envelope's length")
    return payload


class Columns:
    """Takes byte-plane columns off the front of some bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        part = self.data[self.at : self.at + size]
        expect(len(part) == size, "a table is cut short")
        self.at += size
        return part

    def column(self, count, width):
        planes = np.frombuffer(self.take(count * width), np.uint8).reshape(width, count)
        return [int(value) for value in np.ascontiguousarray(planes.T).view(f"<u{width}").reshape(count)]

    def keys(self, shared, lengths):
        keys, previous = [], b""
        for common, length in zip(shared, lengths, strict=True):
            previous = previous[:common] + self.take(length)
            keys.append(previous.decode())
        return keys


def read_table(payload, base_generation=0):
    """Yield (key, generation, data or None, pack or None, offset, length)."""
    columns = Columns(payload)
    count, pack_count, extents, runs, suffix_bytes, inline_bytes = struct.unpack("<IIIIII", columns.take(24))
    packs = [columns.take(12) for _ in range(pack_count)]
    shared, lengths = columns.column(count, 2), columns.column(count, 2)
    expect(sum(lengths) == suffix_bytes, "a table's key bytes")
    keys = columns.keys(shared, lengths)
    extent = dict(
        zip(columns.column(extents, 4), zip(columns.column(extents, 4), columns.column(extents, 8), strict=True), strict=True)
    )  # fmt: skip
    sizes = columns.column(count, 8)
    run = dict(zip(columns.column(runs, 4), columns.column(runs, 8), strict=True))
    inline = columns.take(inline_bytes)
    expect(columns.at == len(payload), "a table's length")
    pack = offset = generation = 0
    for row, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        if row in extent:
            pack, offset = extent[row]
        generation = run.get(row, generation)
        stamp = generation or base_generation
        if pack == DELETED:
            yield key, stamp, None, None, 0, 0
        elif pack == INLINE:
            yield key, stamp, inline[offset : offset + size], None, 0, size
            offset += size
        else:
            yield key, stamp, None, packs[pack], offset, size
            offset += size + 4


class Store:
    """Objects of a store on local files."""

    def __init__(self, path):
        self.path = Path(path)

    def object(self, name):
        return (self.path / name).read_bytes()

    def pack(self, pack, offset, length):
        name = pack.hex()
        with (self.path / "packs" / name[:2] / f"{name}.pack").open("rb") as file:
            expect(file.read(8) == b"ZVPACK\x01\x00", "the head of a pack")
            file.seek(offset)
            data = file.read(length)
        expect(len(data) == length, "a pack is cut short")
        return data

    def numbers(self, branch):
        names = sorted(path.name for path in (self.path / "refs/heads" / branch).glob("*.commit"))
        expect(all(re.fullmatch(r"[0-9]{20}\.commit", name) for name in names), "the name of a commit")
        return [2**64 - 1 - int(name[:20]) for name in names]

    def commit(self, branch, number):
        data = self.object(f"refs/heads/{branch}/{2**64 - 1 - number:020}.commit")
        fields = [
            "number", "write_id", "parent", "time_us", "author", "message", "automatic", "root", "root_at",
            "root_number", "delta", "clears", "packs", "writer",
        ]  # fmt: skip
        commit = dict(zip(fields, unpack(open_envelope(data, 1)), strict=False))
        expect(commit["number"] == number, "a commit under another's name")
        return commit

    def rows(self, commit):
        """Return the newest row of each key of a version."""
        rows = {}
        written = commit["root_number"] or commit["number"]
        root = commit["root"] or (self.pack(*commit["root_at"]) if commit["root_at"] else b"")
        for first, last, pack, offset, length, count, number in read_root(root) if root else ():
            page = list(read_table(open_envelope(self.pack(pack, offset, length), 3), number or written))
            expect(
                (len(page), page[0][0], page[-1][0]) == (count, first, last),
                "a page is not what the root says",
            )
            for row in page:
                rows[row[0]] = row
        for prefix, _ in commit["clears"]:
            inside = prefix + "/" if prefix else ""
            rows = {key: row for key, row in rows.items() if not key.startswith(inside)}
        for row in read_table(commit["delta"]):
            rows[row[0]] = row
        return rows

    def value(self, row):
        """Return the value of a row, None if it was deleted."""
        _, _, data, pack, offset, length = row
        if pack is None:
            return data
        stored = self.pack(pack, offset, length + 4)
        value = stored[:length]
        expect(crc32c(value) == int.from_bytes(stored[length:], "little"), f"the checksum of {row[0]}")
        return value


def read_root(data):
    """Yield (first key, last key, pack, offset, length, count, number) of each page."""
    keys, packs, _, page_packs, offsets, lengths, counts, numbers, _, _, _ = unpack(open_envelope(data, 2))[
        :11
    ]
    columns = Columns(keys)
    key_count = struct.unpack("<I", columns.take(4))[0]
    bounds = columns.keys(columns.column(key_count, 2), columns.column(key_count, 2))
    pages = key_count // 2
    chosen = Columns(page_packs).column(pages, 4)
    return zip(
        bounds[::2], bounds[1::2], [packs[12 * at : 12 * at + 12] for at in chosen],
        Columns(offsets).column(pages, 8), Columns(lengths).column(pages, 4), Columns(counts).column(pages, 4),
        Columns(numbers).column(pages, 8), strict=True,
    )  # fmt: skip


def versions(path, branch="main"):
    """Return the numbers of the commits that a branch still has, the newest first."""
    return Store(path).numbers(branch)


def read_store(path, branch="main", number=None):
    """Return every key and value of one version, by default the newest of a branch.

    Parameters
    ----------
    path
        Directory of the store.
    branch
        Name of the branch.
    number
        Number of the commit.

    Returns
    -------
    dict of str to bytes
    """
    store = Store(path)
    commit = store.commit(branch, store.numbers(branch)[0] if number is None else number)
    values = {key: store.value(row) for key, row in store.rows(commit).items()}
    return {key: value for key, value in values.items() if value is not None}


if __name__ == "__main__":
    for key, value in read_store(sys.argv[1], *sys.argv[2:3]).items():
        sys.stdout.write(f"{len(value):12} {key}\n")

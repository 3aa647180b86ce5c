"""Reads a vector index, from ``specs/vector-index.md`` alone: it shares no code with zarrvec.

Standard library, numpy, and numcodecs for zstd. What it reads it checks, as the specification says. It scans lists in the plainest way there is.
"""

import json
import math
import re

import numpy as np
from independent_reader import (  # type: ignore[import-not-found]  # beside this file
    UnreadableError,
    crc32c,
    expect,
)
from numcodecs import zstd

CODE_ZERO = 128
STAGED, UNCOVERED = 2**64 - 1, 2**64 - 2
NOTHING = 2**64 - 1
NAME = re.compile("[0-9a-z]{1,64}")

__all__ = ["STAGED", "UNCOVERED", "Index", "UnreadableError"]


class Index:
    """An index, opened.

    Parameters
    ----------
    get
        Returns the value of a key below the group of the index, None if there is none.
    shape
        Of the source, as it is now.
    stored_as
        Lengths of a unit and fill value that the head must tell; None to take what it tells.
    unit
        Shape of a unit of the source, on a store with versions.
    generations
        Returns the numbers of the commits that wrote values with given keys, 0 for none: keys of units, below the source, and
        ``"coverage/c/0"``. None on a store without versions.
    """

    def __init__(self, get, shape, *, stored_as=None, unit=None, generations=None):
        self._get = get
        self.shape = shape
        self.head = head = self._read_head()
        self.width = head["width"]
        self.half = (self.width + 1) // 2
        self.has_norms = head["metric"] == "l2"
        self.scalar_bytes = head["id_bytes"] + (12 if self.has_norms else 8)
        self.entry_bytes = self.scalar_bytes + 2 * self.half
        first = head["segments"][0]
        self.nlist = first["lists"]
        self.origin = np.zeros(self.width, "f4")
        if self.has_norms:
            data = self._whole(f"{first['id']}/origin/c/0", 4 * self.width, first["origin_crc32c"])
            self.origin = np.frombuffer(data, "<f4")
        self.segments = [self._read_lists(segment) for segment in head["segments"]]
        self.deleted = self._read_deleted()
        same = shape[1:] == (*head["leading"][1:], self.width) and stored_as in (
            None,
            (head.get("unit"), head.get("fill_value")),
        )
        self.uncovered = self._read_uncovered(same, unit, generations)

    def _value(self, key):
        value = self._get(key)
        expect(value is not None, f"{key} is missing")
        return bytes(value)

    def _whole(self, key, size, crc):
        value = self._value(key)
        expect(len(value) == size and crc32c(value) == crc, f"length or checksum of {key}")
        return value

    def _read_head(self):
        head = json.loads(self._value("zarr.json"))["attributes"]["zarrvec_index"]
        expect(head["format"] == 1, "the index is of a newer format")
        expect(head["metric"] in ("cosine", "l2", "ip") and head["id_bytes"] in (4, 8), "the head")
        expect(head["segments"] and head["width"] > 0, "the head")
        expect(
            all(segment.get("groups") is None for segment in head["segments"][1:]),
            "groups of a later segment",
        )
        expect(all(NAME.fullmatch(segment["id"]) for segment in head["segments"]), "the name of a segment")
        return head

    def _read_lists(self, segment):
        is_first = segment is self.head["segments"][0]
        row = 28 + self.width if is_first else 20
        key, size = f"{segment['id']}/lists/c/0/0", row * segment["lists"]
        if segment.get("lists_packed", False):
            expect(is_first and segment.get("groups") is None and size <= 64 << 20, "a compressed table")
            columns = bytes(zstd.decompress(self._value(key)))
            expect(len(columns) == size, f"the length of {key}")
            data = np.frombuffer(columns, np.uint8).reshape(row, -1).T.tobytes()
            expect(crc32c(data) == segment["lists_crc32c"], f"the checksum of {key}")
        elif segment.get("groups") is None:
            data = self._whole(key, size, segment["lists_crc32c"])
        else:
            data = self._read_groups(segment)
        table = np.frombuffer(data, np.uint8).reshape(-1, row)

        def column(at, dtype):
            return column_of(table, at, dtype)

        if is_first:
            count, heads, lows, radii = (
                column(at, kind) for at, kind in ((8, "<u4"), (12, "<u4"), (16, "<u4"), (24, "<f4"))
            )
            numbers = np.arange(len(table))
            self.centroids = table[:, 28:].view(np.int8).astype("f4") * column(20, "<f4")[:, None]
            expect((column(0, "<u8") == np.cumsum(count) - count).all(), "the offsets of lists")
        else:
            numbers, count, heads, lows, radii = (
                column(4 * place, "<f4" if place == 4 else "<u4") for place in range(5)
            )  # fmt: skip
            expect(
                (np.diff(numbers.astype(int)) > 0).all() and numbers[-1] < self.nlist, "the numbers of lists"
            )
        starts = np.cumsum(count, dtype=np.int64) - count
        expect(count.sum(dtype=np.int64) == segment["entries"], "the count of entries")
        expect(np.isfinite(radii).all() and (radii >= 0).all(), "a radius")
        rows = zip(
            numbers.tolist(),
            starts.tolist(),
            count.tolist(),
            heads.tolist(),
            lows.tolist(),
            radii.tolist(),
            strict=True,
        )
        return segment, {number: rest for number, *rest in rows}

    def _read_groups(self, segment):
        """The table of lists of a segment, put together from those of its groups."""
        told, row = segment["groups"], 28 + self.width
        groups = self._whole(f"{segment['id']}/groups/c/0/0", row * told["count"], told["crc32c"])
        table = np.frombuffer(groups, np.uint8).reshape(-1, row)
        firsts, counts, crcs = (
            column_of(table, at, kind).astype(np.int64) for at, kind in ((0, "<u8"), (8, "<u4"), (12, "<u4"))
        )
        scales, radii = column_of(table, 20, "<f4"), column_of(table, 24, "<f4")
        expect((counts > 0).all() and counts.sum() == segment["lists"], "the counts of groups")
        expect((firsts == np.cumsum(counts) - counts).all(), "the first lists of groups")
        expect(np.isfinite([scales, radii]).all() and (radii >= 0).all(), "a scale or radius of a group")
        expect(told["seen"] >= 1, "the lists that are seen")
        data = b""
        for first, count, crc in zip(firsts.tolist(), counts.tolist(), crcs.tolist(), strict=True):
            rows = self._rows(f"{segment['id']}/lists", told, row, first, first + count)
            expect(crc32c(rows) == crc, f"the checksum of the lists from {first} on")
            data += rows
        expect(crc32c(data) == segment["lists_crc32c"], "the checksum of all lists")
        return data

    def _read_deleted(self):
        told = self.head["deleted_ids"]
        if told is None:
            return np.empty(0, np.int64)
        ids = np.frombuffer(self._whole(f"{told['id']}/c/0", 8 * told["count"], told["crc32c"]), "<i8")
        expect((np.diff(ids) > 0).all() and ids[0] >= 0, "the order of deleted ids")
        before, now = tuple(told["leading"]), self.shape[:-1]
        if len(before) != len(now):
            return np.empty(0, np.int64)
        places = np.stack(np.unravel_index(ids, (1 << 40, *before[1:])), axis=1)  # some may have been cut off
        places = places[(places < now).all(axis=1)]
        return np.ravel_multi_index(places.T, now)

    def _read_uncovered(self, same, unit, generations):
        """Rows that are not in the lists as they are, of the leading shape."""
        leading, head = self.shape[:-1], self.head
        if not same or (generations is not None and not head["grid"]):
            return np.ones(leading, bool)
        uncovered = np.zeros(leading, bool)
        if generations is not None:
            grid = [-(-length // size) for length, size in zip(self.shape, unit, strict=True)]
            told = np.frombuffer(self._value("coverage/c/0"), "<u8")
            expect(len(told) == math.prod(head["grid"]), "the length of the coverage")
            before = np.zeros(grid, np.uint64)
            common = tuple(slice(min(pair)) for pair in zip(grid, head["grid"], strict=True))
            before[common] = told.reshape(head["grid"])[common]
            *now, own = generations(
                [*(f"c/{'/'.join(map(str, at))}" for at in np.ndindex(*grid)), "coverage/c/0"]
            )
            before[before == STAGED] = own
            uncovered = (before != np.array(now, np.uint64).reshape(grid)).any(axis=-1)
            for axis, (length, size) in enumerate(zip(leading, unit, strict=False)):
                uncovered = np.repeat(uncovered, size, axis=axis).take(range(length), axis=axis)
        uncovered[head["leading"][0] :] = True
        return uncovered

    def _rows(self, name, cut, size, start, stop):
        """The bytes of some rows, of so many bytes each, of an array that is cut as is told."""
        data = bytearray()
        chunk_rows, shard_rows = cut["chunk_rows"], cut["shard_rows"]
        for chunk in range(start // chunk_rows, -(-stop // chunk_rows)):
            if shard_rows is None:
                value = self._value(f"{name}/c/{chunk}/0")
            else:
                value = self._chunk_of_shard(name, cut, size, *divmod(chunk, shard_rows // chunk_rows))
            expect(len(value) == chunk_rows * size, f"the length of a chunk of {name}")
            first = max(start - chunk * chunk_rows, 0)
            data += value[first * size : (stop - chunk * chunk_rows) * size]
        return bytes(data[: (stop - start) * size])

    def _chunk_of_shard(self, name, cut, size, shard, inner):
        chunks = cut["shard_rows"] // cut["chunk_rows"]
        value = self._value(f"{name}/c/{shard}/0")
        expect(len(value) >= 16 * chunks + 4, f"the length of a shard of {name}")
        index, crc = value[-16 * chunks - 4 : -4], value[-4:]
        expect(crc32c(index) == int.from_bytes(crc, "little"), "the index of a shard")
        offset, length = np.frombuffer(index, "<u8").reshape(-1, 2)[inner].tolist()
        if offset == NOTHING:
            return bytes(cut["chunk_rows"] * size)
        return value[offset : offset + length]

    def entries(self, place, number):
        """Return ids, scales, errors, norms or None, and codes of one list of one segment."""
        segment, lists = self.segments[place]
        start, count, head_crc, low_crc, _ = lists[number]
        data = self._rows(f"{segment['id']}/entries", segment, self.entry_bytes, start, start + count)
        head_bytes = count * (self.scalar_bytes + self.half)
        expect(crc32c(data[:head_bytes]) == head_crc, f"the checksum of list {number}")
        expect(crc32c(data[head_bytes:]) == low_crc, f"the checksum of the low planes of list {number}")
        at, columns = 0, []
        for dtype in (f"<u{self.head['id_bytes']}", "<f4", "<f4", "<f4")[: 4 if self.has_norms else 3]:
            size = np.dtype(dtype).itemsize * count
            columns.append(np.frombuffer(data[at : at + size], dtype))
            at += size
        high, low = np.frombuffer(data[at:], np.uint8).reshape(2, count, self.half)
        codes = np.concatenate([(high & 15) << 4 | low & 15, high & 240 | low >> 4], axis=1)[:, : self.width]
        ids, scales, errors, *norms = columns
        return ids.astype(np.int64), scales, errors, norms[0] if norms else None, codes

    def decoded(self, place, number):
        """Return the ids and the decoded vectors of a list."""
        ids, scales, _, _, codes = self.entries(place, number)
        return ids, self.centroids[number] + scales[:, None] * (codes.astype("f4") - CODE_ZERO)

    def search(self, queries, k, rows, nprobe=None):
        """Return the ids of the k nearest of each query.

        Parameters
        ----------
        rows
            Returns rows of the source, by id: those in no list are compared as they are.
        nprobe
            Lists to look into, those of the nearest centroids; None for all.
        """
        metric = self.head["metric"]
        alive = np.ones(math.prod(self.shape[:-1]), bool)
        alive[self.deleted] = False
        fresh = np.flatnonzero(alive & self.uncovered.reshape(-1))
        listed = alive & ~self.uncovered.reshape(-1)
        found = []
        lists = [
            {number: self.decoded(place, number) for number, (_, count, *_) in lists.items() if count}
            for place, (_, lists) in enumerate(self.segments)
        ]
        for query in np.asarray(queries, np.float64):
            best = dict(zip(fresh.tolist(), distances(metric, query, rows(fresh)), strict=True))
            inner = query - self.origin if metric == "l2" else query
            nearest = np.argsort(
                ((self.centroids - (unit(inner) if metric == "cosine" else inner)) ** 2).sum(axis=1)
            )
            for number in nearest[: nprobe or self.nlist].tolist():
                for decoded in lists:
                    ids, vectors = decoded.get(number, (np.empty(0, np.int64), np.empty((0, self.width))))
                    for row, distance in zip(ids.tolist(), distances(metric, inner, vectors), strict=True):
                        if row < len(listed) and listed[row]:
                            best[row] = min(distance, best.get(row, np.inf))
            found.append(sorted(best, key=lambda row: (best[row], row))[:k])
        return found


def column_of(table, at, dtype):
    """The numbers that stand at one place of each row of bytes."""
    return np.ascontiguousarray(table[:, at : at + np.dtype(dtype).itemsize]).view(dtype)[:, 0]


def unit(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def distances(metric, query, vectors):
    vectors = np.asarray(vectors, np.float64)
    if metric == "l2":
        return ((vectors - query) ** 2).sum(axis=1)
    if metric == "cosine":
        return 1 - unit(vectors) @ unit(query)
    return -(vectors @ query)

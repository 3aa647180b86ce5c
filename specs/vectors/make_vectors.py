# ruff: noqa: INP001 - a script, not a package
"""Write the golden and must-fail files beside this script: ``python specs/vectors/make_vectors.py``.

Everything is fixed (ids, times, contents), so that a second run writes the same bytes. ``valid.json`` says what each
file in ``valid/`` holds, ``invalid.json`` which error each file in ``invalid/`` must raise and through which parser,
``key_order.json`` the order of keys. ``index.json`` has vector indexes as the head and the values by key, ``index_invalid.json``
what must be refused when it is changed in them. ``sq.json`` has chunks of the codec ``zarrvec.sq``: what was written, what is
stored, what is read, and what must be refused. Bytes are in hex. Files in ``valid/`` are never changed once a release has
written stores like them: a new format version adds files.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numcodecs import zstd

from zarrvec.codecs.quantizer import Form, decode, encode
from zarrvec.format.commit import Commit, encode_commit
from zarrvec.format.envelope import HEADER, Kind, crc32c, wrap
from zarrvec.format.keys import sort_key
from zarrvec.format.manifest import Root, encode_page, encode_root
from zarrvec.format.pack import (
    END_MAGIC,
    TRAILER,
    Footer,
    encode_pack,
    pack_name,
    value_offsets,
    values_end,
)
from zarrvec.format.table import encode_table, planes
from zarrvec.search.groups import groups_of
from zarrvec.search.head import Calibration, Curve, Deleted, Groups, Head, Segment
from zarrvec.search.list_table import SHARED_HEAD, ListTable, pack_rows, unpack_rows
from zarrvec.search.quantize import quantize, quantize_centroids
from zarrvec.search.records import LIST_HEAD, Entries, Layout
from zarrvec.types import Clear, Entry, Location, PackRef, PageRef

TIME_US = 1_767_225_600_000_000  # 2026-01-01 UTC
PACK_A = bytes(range(12))
PACK_B = bytes(range(100, 112))
KEYS_IN_ORDER = [
    ".zattrs", ".zgroup", "a/.zarray", "a/b/zarr.json", "a/c/zarr.json", "a/zarr.json", "b/zarr.json", "zarr.json",
    "0", "00", "1", "01", "001", "2", "10", "A", "a", "a/0", "a/0.0", "a/0.1", "a/0.2", "a/0.10", "a/1.0", "a/9",
    "a/10", "a/b/c/0", "a/c/0", "a/c/0/0", "a/c/0/9", "a/c/0/10", "a/c/1/0", "a/c/9/0", "a/c/10/0", "a/c/100",
    "a/c/18446744073709551616", "a/zarr.json.old", "a-b/c/0", "a.b", "a1", "a1/c/0", "a2", "a10", "a10b2", "a10b10",
    "aa", "c/0", "z", "é/c/0", "日本/c/0", "😀",
]  # fmt: skip
BAD_KEYS = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "../a",
    "a/./b",
    "a/..",
    "a\tb",
    "a\u0000",
    "a\u007f",
    "k" * 1025,
]


def in_order(rows: dict[str, Entry]) -> list[tuple[str, Entry]]:
    """Return rows in key order."""
    return sorted(rows.items(), key=lambda row: sort_key(row[0]))


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: bytes in hex, structs as objects, tuples as lists."""
    if isinstance(value, Entry):
        if value.is_deleted:
            return {"generation": value.generation, "deleted": True}
        if value.data is not None:
            return {"generation": value.generation, "inline": value.data.hex()}
        return {
            "generation": value.generation, "pack": value.pack.hex(), "offset": value.offset, "length": value.length,
        }  # fmt: skip
    if isinstance(value, Root):
        return {
            "pages": plain(value.pages),
            "packs": {pack.hex(): size for pack, size in value.packs.items()},
        }
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return {name: plain(item) for name, item in msgspec.structs.asdict(value).items()}
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


ROWS = in_order({
    "zarr.json": Entry.inline(b'{"zarr_format":3,"node_type":"group"}', generation=1),
    "images/zarr.json": Entry.inline(b'{"zarr_format":3,"node_type":"array"}', generation=2),
    **{f"images/c/{n}": Entry(3, 100, PACK_A, 8 + 104 * n) for n in range(12)},
    "images/c/12": Entry(5, 7, PACK_B, 8),
    "labels/c/0": Entry.inline(b"\0\1\2\3", generation=3),
})  # fmt: skip
DELTA = in_order({
    "images/c/3": Entry(7),
    "images/c/4": Entry(7, 100, PACK_B, 19),
    "images/zarr.json": Entry.inline(b"{}", generation=6),
})  # fmt: skip
ROOT = Root(
    [
        PageRef("images/zarr.json", "zarr.json", Location(PACK_A, 1300, 120), 2, 4, ()),
        PageRef("images/c/0", "images/c/12", Location(PACK_B, 200, 90), 13, 0, ((PACK_A, 1200), (PACK_B, 7))),
    ],
    [PackRef(PACK_A, 1200), PackRef(PACK_B, 107)],
)


def commit(**fields: Any) -> Commit:
    """Return a commit of fixed fields, some of them changed."""
    fixed: dict[str, Any] = {
        "number": 7, "write_id": b"write-id-of-seven"[:16], "parent": b"write-id-of--six", "time_us": TIME_US,
        "author": "me", "message": "why", "automatic": False, "root": b"", "root_at": None, "root_number": 0,
        "delta": encode_table(DELTA), "clears": [], "packs": [], "writer": "vectors",
    }  # fmt: skip
    return Commit(**{**fixed, **fields})


COMMITS = {
    "commit_first": commit(number=1, parent=b"", automatic=True, message="", delta=encode_table(ROWS[:1])),
    "commit_root_inline": commit(root=encode_root(ROOT), root_number=5, packs=[PackRef(PACK_B, 107)]),
    "commit_root_in_pack": commit(
        root_at=Location(PACK_B, 300, 150), clears=[Clear("old/a", 6), Clear("x", 7)]
    ),
    "commit_cleared": commit(delta=encode_table([]), clears=[Clear("", 7)]),
}
VALUES = [("images/c/0", b"first value"), ("images/c/1", b""), ("images/c/10", bytes(range(256)))]


def make_packs() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return packs, and what they hold."""
    offsets = value_offsets([len(data) for _, data in VALUES])
    values = [(key, Entry(0, len(data), PACK_A, at)) for (key, data), at in zip(VALUES, offsets, strict=True)]
    alone = Footer(
        pack=PACK_A, base=0, time_us=TIME_US, values=encode_table(values), changes=encode_table([]), clears=[],
        pages=[], root=None,
    )  # fmt: skip
    end = values_end([len(data) for _, data in VALUES])
    structures = [encode_page(ROWS), encode_page(values), encode_root(ROOT)]
    places = []
    for structure in structures:
        places.append((end, len(structure)))
        end += len(structure)
    full = msgspec.structs.replace(
        alone, base=6, changes=encode_table([DELTA[0], DELTA[1]]), clears=[Clear("old", 7)], pages=places[:2],
        root=places[2],
    )  # fmt: skip
    changed_rows = [DELTA[0], DELTA[1]]
    stored = [data for _, data in VALUES]
    return {
        "pack_values": (encode_pack(stored, [], alone), _pack_json(alone, values, [])),
        "pack_full": (encode_pack(stored, structures, full), _pack_json(full, values, changed_rows)),
        "pack_empty": (
            encode_pack([], [], msgspec.structs.replace(alone, values=encode_table([]))),
            _pack_json(msgspec.structs.replace(alone, values=encode_table([])), [], []),
        ),
    }


def _pack_json(footer: Footer, rows: Any, changes: Any) -> dict[str, Any]:
    return {
        "name": pack_name(footer.pack), **plain(footer), "values": plain(rows), "changes": plain(changes),
        "data": {key: plain(data) for key, data in VALUES} if rows else {},
    }  # fmt: skip


def commit_json(value: Commit, delta: Any) -> Any:
    """Return what the JSON file says of a commit."""
    return {**plain(value), "delta": plain(delta)}


def make_valid() -> dict[str, tuple[str, bytes, Any]]:
    """Return parser, bytes and content of each golden file."""
    deltas = {"commit_first": ROWS[:1], "commit_cleared": []}
    return {
        "envelope_stored": ("envelope", wrap(Kind.PAGE, b"payload"), {"kind": 3, "payload": b"payload".hex()}),
        "envelope_zstd": ("envelope", wrap(Kind.FOOTER, bytes(999)), {"kind": 4, "payload": bytes(999).hex()}),
        "table": ("table", encode_table(ROWS), plain(ROWS)),
        "table_empty": ("table", encode_table([]), []),
        "table_deleted": ("table", encode_table(DELTA), plain(DELTA)),
        "page": ("page", encode_page([(key, entry.at(0 if entry.generation == 3 else entry.generation)) for key, entry in ROWS]), plain([(key, entry.at(9 if entry.generation == 3 else entry.generation)) for key, entry in ROWS])),
        "root": ("root", encode_root(ROOT), plain(Root([page if page.number else msgspec.structs.replace(page, number=9) for page in ROOT.pages], [PackRef(*item) for item in ROOT.packs.items()]))),
        "root_empty": ("root", encode_root(Root()), plain(Root())),
        **{name: ("commit", encode_commit(value), commit_json(value, deltas.get(name, DELTA))) for name, value in COMMITS.items()},
        **{name: ("pack", data, content) for name, (data, content) in make_packs().items()},
    }  # fmt: skip


def seal(kind: int, stored: bytes, *, raw: int | None = None, version: int = 1, flags: int = 0) -> bytes:
    """Return an envelope whose checksum holds, whatever its header says."""
    raw = len(stored) if raw is None else raw
    head = HEADER.pack(b"ZVEC", kind, version, flags, len(stored), raw, 0)[:16]
    return head + struct.pack("<I", crc32c(head + stored)) + stored


def record_of(value: Commit, **changed: Any) -> bytes:
    """Return a commit's envelope with fields that no writer writes."""
    fields = {**msgspec.structs.asdict(value), **changed}
    return wrap(Kind.COMMIT, msgspec.msgpack.encode(list(fields.values())))


def put(data: bytes, at: int, new: bytes) -> bytes:
    """Return bytes with some of them overwritten."""
    return data[:at] + new + data[at + len(new) :]


def make_invalid() -> dict[str, tuple[str, bytes, str]]:
    """Return parser, bytes and error of each must-fail file."""
    page, table, root = encode_page(ROWS), encode_table(ROWS), encode_root(ROOT)
    good = COMMITS["commit_root_inline"]
    pack = make_packs()["pack_full"][0]
    corrupt, newer = "CorruptError", "FormatVersionError"
    one = encode_table([("ab", Entry.inline(b"x", generation=1)), ("ac", Entry(2, 5, PACK_A, 8))])
    overlapping = Root(
        [PageRef(a, b, Location(PACK_A, 8, 99), 1, 1, ()) for a, b in (("c/1", "c/5"), ("c/3", "c/9"))],
        [PackRef(PACK_A, 0)],
    )
    turned = Root([PageRef("c/10", "c/9", Location(PACK_A, 8, 99), 1, 1, ())], [PackRef(PACK_A, 0)])
    return {
        "envelope_empty": ("page", b"", corrupt),
        "envelope_bad_magic": ("page", put(page, 0, b"ZARR"), corrupt),
        "envelope_other_kind": ("page", root, corrupt),
        "envelope_newer_version": ("page", seal(3, table, version=2), newer),
        "envelope_version_zero": ("page", seal(3, table, version=0), corrupt),
        "envelope_unknown_flag": ("page", seal(3, table, flags=0x8000), newer),
        "envelope_crc_flipped": ("page", put(page, 16, bytes([page[16] ^ 1])), corrupt),
        "envelope_payload_flipped": ("page", put(page, 30, bytes([page[30] ^ 128])), corrupt),
        "envelope_truncated": ("page", page[:-1], corrupt),
        "envelope_followed_by_more": ("page", page + b"\0", corrupt),
        "envelope_raw_length_lies": ("page", seal(3, table, raw=len(table) + 1), corrupt),
        "envelope_claims_4_gib": ("page", seal(3, bytes(zstd.compress(bytes(100), 3)), raw=0xFFFFFFFF, flags=1), corrupt),
        "zstd_bomb": ("page", seal(3, bytes(zstd.compress(bytes(8 << 20), 19)), raw=100, flags=1), corrupt),
        "zstd_too_short": ("page", seal(3, bytes(zstd.compress(bytes(100), 3)), raw=1 << 20, flags=1), corrupt),
        "zstd_garbage": ("page", seal(3, b"no zstd frame", raw=100, flags=1), corrupt),
        "zstd_without_size": ("page", seal(3, b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00", raw=0, flags=1), corrupt),
        "table_truncated": ("page", seal(3, table[:-1]), corrupt),
        "table_count_lies": ("page", seal(3, put(table, 0, b"\xff\xff\xff\xff")), corrupt),
        "table_suffixes_do_not_add_up": ("page", seal(3, put(one, 40, b"\x03")), corrupt),
        "table_shares_too_much": ("page", seal(3, put(one, one.index(b"abc") - 7, b"\x09")), corrupt),
        "table_key_not_utf8": ("page", seal(3, put(one, one.index(b"abc"), b"\xff")), corrupt),
        "table_key_leads_out": ("page", encode_page([("../up", Entry.inline(b"x", generation=1))]), corrupt),
        "table_key_empty": ("page", encode_page([("", Entry.inline(b"x", generation=1))]), corrupt),
        "table_key_too_long": ("page", encode_page([("k" * 1025, Entry.inline(b"x", generation=1))]), corrupt),
        "table_order_broken": ("page", encode_page(ROWS[::-1]), corrupt),
        "table_key_twice": ("page", encode_page([ROWS[2], ROWS[2]]), corrupt),
        "table_inline_overlaps": ("page", seal(3, _shared_inline()), corrupt),
        "table_unknown_pack": ("page", seal(3, _one_row(pack=1, offset=8, length=5)), corrupt),
        "table_value_of_an_exabyte": ("page", seal(3, _one_row(pack=0, offset=8, length=1 << 60)), corrupt),
        "table_offset_out_of_range": ("page", seal(3, _one_row(pack=0, offset=1 << 63, length=5)), corrupt),
        "table_deleted_with_length": ("page", seal(3, _one_row(pack=0xFFFFFFFE, offset=0, length=5)), corrupt),
        "table_extents_start_late": ("page", seal(3, _one_row(pack=0, offset=8, length=5, row=1)), corrupt),
        "root_pages_overlap": ("root", encode_root(overlapping), corrupt),
        "root_page_ends_before_it_starts": ("root", encode_root(turned), corrupt),
        "root_columns_differ": ("root", _root_with(counts=b""), corrupt),
        "root_unknown_pack": ("root", _root_with(page_packs=planes([0, 2], "<u4")), corrupt),
        "root_usage_does_not_add_up": ("root", _root_with(usage_counts=planes([0, 1], "<u4")), corrupt),
        "root_not_msgpack": ("root", wrap(Kind.ROOT, b"\xc1"), corrupt),
        "commit_field_missing": ("commit", wrap(Kind.COMMIT, msgspec.msgpack.encode([7])), corrupt),
        "commit_field_of_other_type": ("commit", record_of(good, number="7"), corrupt),
        "commit_number_zero": ("commit", record_of(good, number=0), corrupt),
        "commit_write_id_short": ("commit", record_of(good, write_id=b"short"), corrupt),
        "commit_two_roots": ("commit", record_of(good, root_at=(PACK_A, 8, 99)), corrupt),
        "commit_root_is_newer": ("commit", record_of(good, root_number=8), corrupt),
        "commit_root_before_pack": ("commit", record_of(good, root=b"", root_at=(PACK_A, -1, 99)), corrupt),
        "commit_root_of_an_exabyte": ("commit", record_of(good, root=b"", root_at=(PACK_A, 8, 1 << 60)), corrupt),
        "commit_pack_id_short": ("commit", record_of(good, packs=[(b"short", 5)]), corrupt),
        "commit_clear_leads_out": ("commit", record_of(good, clears=[("a/../b", 7)]), corrupt),
        "commit_clear_from_the_future": ("commit", record_of(good, clears=[("a", 8)]), corrupt),
        "commit_nested_without_end": ("commit", wrap(Kind.COMMIT, b"\x9f" + b"\x91" * 99_999), corrupt),
        "commit_delta_broken": ("commit", record_of(good, delta=table[:-1]), corrupt),
        "pack_bad_magic": ("pack", put(pack, 0, b"PK\3\4"), corrupt),
        "pack_newer_version": ("pack", put(pack, 6, b"\2"), newer),
        "pack_unknown_flag": ("pack", put(pack, 7, b"\1"), newer),
        "pack_truncated": ("pack", pack[:-3], corrupt),
        "pack_value_flipped": ("pack", put(pack, 10, b"\0"), corrupt),
        "pack_trailer_length_lies": ("pack", put(pack, len(pack) - TRAILER.size, b"\xff"), corrupt),
        "pack_footer_of_4_gib": ("pack", pack[: -TRAILER.size] + TRAILER.pack(0xFFFFFFFF, crc32c(b"\xff" * 4 + END_MAGIC), END_MAGIC), corrupt),
        "pack_footer_flipped": ("pack", put(pack, len(pack) - TRAILER.size - 5, bytes([pack[-TRAILER.size - 5] ^ 1])), corrupt),
    }  # fmt: skip


def _one_row(*, pack: int, offset: int, length: int, row: int = 0) -> bytes:
    return b"".join((
        struct.pack("<IIIIII", 1, 1, 1, 1, 1, 0), PACK_A, planes([0], "<u2"), planes([1], "<u2"), b"k",
        planes([row], "<u4"), planes([pack], "<u4"), planes([offset], "<u8"), planes([length], "<u8"),
        planes([0], "<u4"), planes([1], "<u8"),
    ))  # fmt: skip


def _shared_inline() -> bytes:
    return b"".join((
        struct.pack("<IIIIII", 2, 0, 2, 1, 2, 9), planes([0, 0], "<u2"), planes([1, 1], "<u2"), b"kl",
        planes([0, 1], "<u4"), planes([0xFFFFFFFF] * 2, "<u4"), planes([0, 0], "<u8"), planes([9, 9], "<u8"),
        planes([0], "<u4"), planes([1], "<u8"), b"123456789",
    ))  # fmt: skip


def _root_with(**changed: bytes) -> bytes:
    names = (
        "keys", "packs", "pack_bytes", "page_packs", "offsets", "lengths", "counts", "numbers", "usage_counts",
        "usage_packs", "usage_bytes",
    )  # fmt: skip
    from zarrvec.format.envelope import unwrap

    fields = msgspec.msgpack.decode(unwrap(encode_root(ROOT), Kind.ROOT, name="root"))
    return wrap(
        Kind.ROOT, msgspec.msgpack.encode(list({**dict(zip(names, fields, strict=True)), **changed}.values()))
    )


ROWS_OF_INDEX = (
    np.array([[(7 * row + 11 * axis * row + axis) % 23 - 11 for axis in range(6)] for row in range(40)], "f4")
    / 4
)
"""Sums of their squares are exact in float32, so every machine makes the same index of them."""
FIRST_ROWS = 30
DELETED = (3, 17, 35)
CALIBRATION = Calibration(
    source="rows", queries=40, nprobe=(1, 2, 3, 4), far=9.5,
    curves=(
        Curve(k=1, recall=(0.75, 0.9, 0.975, 1.0), error=(0.0625, 0.03125, 0.015625, 0.0), loss={"4": 0.125, "8": 0.0}),
        Curve(k=10, recall=(0.5, 0.75, 0.95, 1.0), error=(0.03125, 0.03125, 0.015625, 0.0), loss={"4": 0.0625, "8": 0.0}),
    ),
)  # fmt: skip


class IndexMaker:
    """Makes an index of `ROWS_OF_INDEX` in two segments: four lists, and every third row in a second one."""

    def __init__(
        self, metric: Any, *, id_bytes: int, shards: bool, groups: tuple[int, ...] = (), packed: bool = False
    ) -> None:
        self.layout = Layout(width=6, id_bytes=id_bytes, has_norms=metric == "l2")
        self.metric = metric
        self.shards = shards
        self.groups = groups
        self.packed = packed
        self.values: dict[str, bytes] = {}
        rows = ROWS_OF_INDEX.astype(np.float64)
        self.origin = np.array([0.25, 0, -0.5, 1, 0, 0], "f4")
        if metric == "cosine":
            rows = rows / np.sqrt((rows**2).sum(axis=1))[:, None]
        elif metric == "l2":
            rows = rows - self.origin
        self.rows = rows.astype(np.float32)
        codes, scales = quantize_centroids(self.rows[[0, 9, 18, 27]])
        heads = np.zeros(4, LIST_HEAD)
        heads["scale"] = scales
        self.table = ListTable(heads, codes)
        self.holds: list[Any] = []

    def segment(self, name: str, ids: range) -> Segment:
        """Put rows into lists: each in that of its number, every third in the next one too."""
        is_first = name.startswith("a")
        lists: list[list[int]] = [[], [], [], []]
        for row in ids:
            lists[row % 4 if is_first or row % 4 != 2 else 3].append(row)  # a later segment leaves list 2 out
            if row % 12 == 0:
                lists[1].append(row)
        packed, told = [], []
        for number, members in enumerate(lists):
            around = self.table.vectors()[[number] * len(members)]
            coded = quantize(self.rows[members], around)
            # what is a sum is rounded here, up where it is a bound: machines may add in any order
            errors = (np.ceil(coded.errors * 4096 + 1) / 4096).astype(np.float32)
            norms = (np.round(coded.norms * 4096) / 4096).astype(np.float32)
            residuals = np.abs(self.rows[members] - around).max(initial=0) * 3
            entries = Entries(
                np.array(members), coded.scales, errors, norms if self.layout.has_norms else None, coded.codes
            )
            packed.append(self.layout.pack(entries).tobytes())
            told.append({
                "list": number, "count": len(members), "radius": float(residuals), "ids": members,
                "scales": coded.scales.tolist(), "errors": errors.tolist(),
                "norms": norms.tolist() if self.layout.has_norms else None, "codes": coded.codes.tolist(),
            })  # fmt: skip
        raw = self._lists(packed, told, is_first=is_first)
        entries = b"".join(packed)
        count = len(entries) // self.layout.entry_bytes
        if is_first and self.groups:
            self._sharded(f"{name}/lists", raw, self.layout.list_bytes, 3, 2)
        else:
            self.values[f"{name}/lists/c/0/0"] = (
                pack_rows(np.frombuffer(raw, "u1").reshape(4, -1)) if is_first and self.packed else raw
            )
        self._entries(name, entries)
        self.holds.append(told)
        origin = self.origin.tobytes()
        with_origin = is_first and self.metric == "l2"
        if with_origin:
            self.values[f"{name}/origin/c/0"] = origin
        return Segment(
            id=name, entries=count, rows=len({row for each in told for row in each["ids"]}), spread=1.5,
            lists=len(raw) // (self.layout.list_bytes if is_first else SHARED_HEAD.itemsize),
            lists_crc32c=crc32c(raw), lists_packed=is_first and self.packed, origin_crc32c=crc32c(origin) if with_origin else None,
            groups=self._groups(name, raw) if is_first and self.groups else None, chunk_rows=16,
            shard_rows=48 if self.shards else None,
        )  # fmt: skip

    def _lists(self, packed: list[bytes], told: list[Any], *, is_first: bool) -> bytes:
        chosen = [place for place in range(4) if is_first or packed[place]]
        table = np.zeros(len(chosen), LIST_HEAD if is_first else SHARED_HEAD)
        for row, place in zip(table, chosen, strict=True):
            head = self.layout.head_bytes(told[place]["count"])
            row["count"], row["radius"] = told[place]["count"], told[place]["radius"]
            row["crc_head"], row["crc_low"] = crc32c(packed[place][:head]), crc32c(packed[place][head:])
        if not is_first:
            table["list"] = chosen
            return table.tobytes()
        table["offset"] = np.cumsum(table["count"]) - table["count"]
        table["scale"] = self.table.heads["scale"]
        return ListTable(table, self.table.centroids).encode().tobytes()

    def _groups(self, name: str, rows: bytes) -> Groups:
        table = groups_of(self.table.vectors(), np.array(self.groups))
        heads = table.heads
        heads["radius"] = np.ceil(heads["radius"] * 4096 + 1) / 4096  # as for errors
        size = self.layout.list_bytes
        for row in heads:
            first, count = int(row["offset"]), int(row["count"])
            row["crc_head"] = crc32c(rows[first * size : (first + count) * size])
        raw = table.encode().tobytes()
        self.values[f"{name}/groups/c/0/0"] = raw
        return Groups(count=len(heads), crc32c=crc32c(raw), seen=1.0, chunk_rows=3, shard_rows=6)

    def _entries(self, name: str, entries: bytes) -> None:
        size = 16 * self.layout.entry_bytes
        if self.shards:
            self._sharded(f"{name}/entries", entries, self.layout.entry_bytes, 16, 3)
        else:
            for number, at in enumerate(range(0, len(entries), size)):
                self.values[f"{name}/entries/c/{number}/0"] = entries[at : at + size].ljust(size, b"\0")

    def _sharded(self, name: str, data: bytes, row_bytes: int, rows: int, chunks: int) -> None:
        """Put an array into one shard of so many chunks of so many rows; those that aren't needed are missing."""
        size = rows * row_bytes
        there = [data[at : at + size].ljust(size, b"\0") for at in range(0, len(data), size)]
        index = b"".join(struct.pack("<QQ", number * size, size) for number in range(len(there)))
        index += b"\xff" * 16 * (chunks - len(there))
        self.values[f"{name}/c/0/0"] = b"".join(there) + index + struct.pack("<I", crc32c(index))

    def make(self) -> dict[str, Any]:
        """Return what the JSON file says of the index."""
        deleted = np.array(DELETED, "<i8").tobytes()
        self.values["d0000000000000d1/c/0"] = deleted
        head = Head(
            revision="00000000000000a1", metric=self.metric, width=6, dtype="float32", id_bytes=self.layout.id_bytes,
            leading=(40,), unit=(10, 6), fill_value=0.0,
            segments=(self.segment("a0000000000000a1", range(FIRST_ROWS)), self.segment("b0000000000000b1", range(FIRST_ROWS, 40))),
            deleted_ids=Deleted(id="d0000000000000d1", count=len(DELETED), crc32c=crc32c(deleted), leading=(40,)),
            calibration=CALIBRATION, trained_spread=1.5, second_from=-0.75,
            options={"nlist": 4, "bits": 8, "memory_bytes": 1 << 20, "seed": 0}, built={"zarrvec": "vectors", "rows": 40},
        )  # fmt: skip
        return {
            "rows": ROWS_OF_INDEX.tolist(),
            "head": head.encode(),
            "values": {key: data.hex() for key, data in self.values.items()},
            "holds": {
                "centroids": self.table.vectors().tolist(),
                "segments": self.holds,
                "deleted": list(DELETED),
            },
        }


def make_indexes() -> dict[str, Any]:
    """Return indexes of one array for each metric, two of compressed tables of lists, and one whose table is read by groups."""
    return {
        "l2": IndexMaker("l2", id_bytes=4, shards=False).make(),
        "cosine": IndexMaker("cosine", id_bytes=8, shards=True, packed=True).make(),
        "ip": IndexMaker("ip", id_bytes=4, shards=True, packed=True).make(),
        "grouped": IndexMaker("l2", id_bytes=8, shards=True, groups=(1, 3)).make(),
    }


def make_invalid_indexes(indexes: dict[str, Any]) -> dict[str, Any]:
    """Return, for each change that must be refused, the index, the path in the head or the key, and the new content."""
    first, later = "a0000000000000a1", "b0000000000000b1"
    values = {
        name: {key: bytes.fromhex(data) for key, data in index["values"].items()}
        for name, index in indexes.items()
    }

    def head(path: str, value: Any, *, of: str = "l2", error: str = "CorruptError") -> dict[str, Any]:
        return {"of": of, "error": error, "head": path, "value": value}

    def put_value(key: str, data: bytes | None, *, of: str = "l2") -> dict[str, Any]:
        return {"of": of, "error": "CorruptError", "key": key, "data": plain(data)}

    def flip(key: str, at: int, *, of: str = "l2") -> dict[str, Any]:
        data = bytearray(values[of][key])
        data[at] ^= 4
        return put_value(key, bytes(data), of=of)

    def sealed(key: str, data: bytes, *, segment: int) -> dict[str, Any]:
        """Change the table of lists, and its checksum too."""
        return put_value(key, data) | {"head": f"segments.{segment}.lists_crc32c", "value": crc32c(data)}

    def groups_sealed(data: bytes) -> dict[str, Any]:
        """Change the groups, and their checksum too."""
        change = put_value(groups, data, of="grouped")
        return change | {"head": "segments.0.groups.crc32c", "value": crc32c(data)}

    def rows_sealed(at: int, data: bytes) -> dict[str, Any]:
        """Change the rows of the second group, its checksum, and that of the groups."""
        shard = put(values["grouped"][lists], at, data)
        sealed_groups = put(grouped, 34 + 12, struct.pack("<I", crc32c(shard[34 : 4 * 34])))
        return groups_sealed(sealed_groups) | {"also": {lists: plain(shard)}}

    groups = f"{first}/groups/c/0/0"
    grouped = values["grouped"][groups]
    lists, more, deleted = f"{first}/lists/c/0/0", f"{later}/lists/c/0/0", "d0000000000000d1/c/0"
    table, shared = values["l2"][lists], values["l2"][more]
    frame = values["ip"][lists]
    unpacked = unpack_rows(frame, 4, 34, name=lists).tobytes()
    return {
        "head_newer_format": head("format", 2, error="FormatVersionError"),
        "head_format_zero": head("format", 0),
        "head_is_a_list": head("", []),
        "head_no_segments": head("segments", []),
        "head_segment_leads_out": head("segments.0.id", "../../secret"),
        "head_segments_of_one_name": head("segments.1.id", first),
        "head_unknown_metric": head("metric", "hamming"),
        "head_ids_of_5_bytes": head("id_bytes", 5),
        "head_width_zero": head("width", 0),
        "head_lists_of_an_exabyte": head("segments.0.lists", 1 << 60),
        "head_more_rows_than_entries": head("segments.0.rows", 1000),
        "head_grid_of_other_axes": head("grid", [4]),
        "head_grid_without_end": head("grid", [1 << 40, 1 << 40]),
        "head_unit_below_zero": head("unit", [10, -6]),
        "head_fill_value_of_two": head("fill_value", [0, 1]),
        "head_shards_of_half_chunks": head("segments.0.shard_rows", 40),
        "head_chunks_of_nothing": head("segments.0.chunk_rows", 0),
        "head_nprobe_descends": head("calibration.nprobe", [4, 3, 2, 1]),
        "head_curve_too_short": head("calibration.curves.0.recall", [1.0]),
        "head_no_curves": head("calibration.curves", []),
        "head_recall_above_one": head("calibration.curves.0.recall", [0.5, 0.9, 1.0, 1.5]),
        "head_no_loss": head("calibration.curves.0.loss", {}),
        "head_l2_without_origin": head("segments.0.origin_crc32c", None),
        "head_deleted_in_rows_of_nothing": head("deleted_ids.leading", [40, 0]),
        "head_deleted_leads_out": head("deleted_ids.id", "../zarr"),
        "lists_missing": put_value(lists, None),
        "lists_flipped": flip(lists, 70),
        "lists_cut_short": put_value(lists, table[:-1]),
        "lists_of_one_row_less": sealed(lists, table[:-34], segment=0),
        "lists_count_lies": sealed(lists, put(table, 8, b"\xff\xff\xff\xff"), segment=0),
        "lists_offset_lies": sealed(lists, put(table, 34, b"\1"), segment=0),
        "lists_scale_nan": sealed(lists, put(table, 20, b"\0\0\xc0\x7f"), segment=0),
        "lists_radius_negative": sealed(lists, put(table, 24, b"\0\0\x80\xbf"), segment=0),
        "lists_packed_missing": put_value(lists, None, of="ip"),
        "lists_packed_flipped": flip(lists, -20, of="ip"),
        "lists_packed_cut_short": put_value(lists, frame[:-1], of="ip"),
        "lists_packed_of_one_row_less": put_value(lists, bytes(zstd.compress(unpacked[:-34], 1)), of="ip"),
        "lists_packed_bomb": put_value(lists, bytes(zstd.compress(bytes(8 << 20), 1)), of="ip"),
        "lists_packed_without_size": put_value(lists, b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00", of="ip"),
        "lists_packed_by_rows": put_value(lists, bytes(zstd.compress(unpacked, 1)), of="ip"),
        "lists_packed_not_at_all": put_value(lists, unpacked, of="ip"),
        "lists_not_packed_as_said": head("segments.0.lists_packed", value=False, of="ip"),
        "head_later_lists_packed": head("segments.1.lists_packed", value=True, of="ip"),
        "head_lists_in_groups_packed": head("segments.0.lists_packed", value=True, of="grouped"),
        "head_packed_lists_of_a_gigabyte": head("segments.0.lists", 1 << 25, of="ip"),
        "later_lists_flipped": flip(more, 3),
        "later_lists_unknown_list": sealed(more, put(shared, 40, b"\4"), segment=1),
        "later_lists_out_of_order": sealed(more, put(shared, 0, b"\1") , segment=1),
        "later_lists_radius_nan": sealed(more, put(shared, 16, b"\0\0\xc0\x7f"), segment=1),
        "origin_flipped": flip(f"{first}/origin/c/0", 1),
        "deleted_missing": put_value(deleted, None),
        "deleted_flipped": flip(deleted, 0),
        "deleted_cut_short": put_value(deleted, values["l2"][deleted][:-8]),
        "entries_missing": put_value(f"{first}/entries/c/1/0", None),
        "entries_flipped": flip(f"{first}/entries/c/0/0", 5),
        "entries_low_plane_flipped": flip(f"{first}/entries/c/0/0", 16 * 22 - 70),
        "entries_cut_short": put_value(f"{first}/entries/c/0/0", values["l2"][f"{first}/entries/c/0/0"][:100]),
        "head_groups_in_a_later_segment": head("segments.1.groups", indexes["grouped"]["head"]["segments"][0]["groups"], of="grouped"),
        "head_more_groups_than_lists": head("segments.0.groups.count", 5, of="grouped"),
        "head_fewer_lists_seen_than_probed": head("segments.0.groups.seen", 0.5, of="grouped"),
        "head_lists_in_shards_of_half_chunks": head("segments.0.groups.shard_rows", 5, of="grouped"),
        "groups_missing": put_value(groups, None, of="grouped"),
        "groups_flipped": flip(groups, 30, of="grouped"),
        "groups_cut_short": put_value(groups, grouped[:-1], of="grouped"),
        "groups_of_one_row_less": groups_sealed(grouped[:34]),
        "groups_one_is_empty": groups_sealed(put(put(put(grouped, 8, b"\0"), 34, b"\0"), 34 + 8, b"\4")),
        "groups_first_lies": groups_sealed(put(grouped, 34, b"\0")),
        "groups_count_lies": groups_sealed(put(grouped, 34 + 8, b"\4")),
        "groups_scale_nan": groups_sealed(put(grouped, 20, b"\0\0\xc0\x7f")),
        "groups_radius_negative": groups_sealed(put(grouped, 24, b"\0\0\x80\xbf")),
        "group_lists_missing": put_value(lists, None, of="grouped"),
        "group_lists_flipped": flip(lists, 40, of="grouped"),
        "group_lists_shard_index_flipped": flip(lists, -30, of="grouped"),
        "group_lists_offset_lies": rows_sealed(34 * 2, b"\1"),
        "group_lists_count_lies": rows_sealed(34 * 3 + 8, b"\xff"),
        "group_lists_scale_nan": rows_sealed(34 + 20, b"\0\0\xc0\x7f"),
        "group_lists_radius_negative": rows_sealed(34 + 24, b"\0\0\x80\xbf"),
        "shard_index_flipped": flip(f"{first}/entries/c/0/0", -30, of="cosine"),
        "shard_cut_short": put_value(f"{first}/entries/c/0/0", values["cosine"][f"{first}/entries/c/0/0"][:20], of="cosine"),
    }  # fmt: skip


INF, NAN, LARGEST = float("inf"), float("nan"), float(np.finfo(np.float32).max)
PRESERVE = {"nonfinite": "preserve"}
QUANTIZED: dict[str, tuple[str, dict[str, Any], list[Any], float | None]] = {
    "bits_8": ("float32", {"bits": 8}, [[0, 1, 255], [7, 7, 7]], None),
    "bits_4": ("float32", {"bits": 4}, [[0, 1, 15]], None),
    "bits_4_even": ("float32", {"bits": 4}, [[0.25, -1.5, 0.5, 3.0]], None),
    "three_axes": ("float32", {"bits": 8}, [[[0.1, -0.2, 0.3], [1, 2, 4]], [[-5, 5, 0], [1e-3, 2e-3, 9e-3]]], None),
    "float16": ("float16", {"bits": 8}, [[0.1, 65504, -65504], [6e-8, 1e-7, 1e-4]], None),
    "float64": ("float64", {"bits": 4}, [[0.1, 1e10, -3], [1e-300, 0, 1e-290], [LARGEST, -LARGEST, 0.5]], None),
    "zeros": ("float32", {"bits": 8}, [[0, 0, 0], [-0.0, 0, -0.0]], None),
    "tiny": ("float32", {"bits": 8}, [[0, 1e-45, 7e-44], [1e-38, 1.1e-38, 0]], None),
    "range_overflows": ("float32", {"bits": 8}, [[-LARGEST, 0.5, LARGEST], [0, 1e38, LARGEST]], None),
    "offset_dominates": ("float32", {"bits": 8}, [[16777216, 16777218, 16777220], [1, 1.0000001, 1.0000002]], None),
    "preserve_8": ("float32", {"bits": 8, **PRESERVE}, [[0, NAN, 252], [INF, -INF, 1], [NAN, NAN, NAN]], None),
    "preserve_4": ("float16", {"bits": 4, **PRESERVE}, [[0, NAN, 12], [INF, -INF, 1], [INF, INF, INF]], None),
    "filled": ("float32", {"bits": 8}, [[1, 2, 3], [NAN, NAN, NAN]], NAN),
    "filled_infinite": ("float64", {"bits": 4}, [[1, 2, 3], [-INF, -INF, -INF]], -INF),
}  # fmt: skip
REFUSED_VALUES: dict[str, tuple[str, dict[str, Any], list[Any], float | None]] = {
    "nan": ("float32", {"bits": 8}, [[1, 2, 3], [1, NAN, 3]], None),
    "infinity": ("float16", {"bits": 4}, [[1, 2, INF]], None),
    "nan_beside_the_fill_value": ("float32", {"bits": 8}, [[NAN, 2, 3]], NAN),
    "filled_otherwise": ("float32", {"bits": 8}, [[NAN, NAN, NAN]], INF),
    "above_float32": ("float64", {"bits": 8}, [[1e39, 0, 1]], None),
    "above_float32_preserved": ("float64", {"bits": 8, **PRESERVE}, [[-1e39, NAN, 1]], None),
}
REFUSED_CONFIGURATIONS: list[dict[str, Any]] = [
    {"bits": 5}, {"bits": "8"}, {"bits": True}, {"bits": None}, {"nonfinite": "ignore"}, {"nonfinite": None}, {"width": 3}, {"levels": 255},
]  # fmt: skip


def quantized_form(dtype: str, configuration: dict[str, Any], width: int) -> Form:
    """Return the form of a chunk's records."""
    return Form(**{"bits": 8, "nonfinite": "refuse", **configuration}, width=width, dtype=np.dtype(dtype))


def make_quantized() -> dict[str, Any]:
    """Return chunks of ``zarrvec.sq``: those that are right, stored bytes and values that are refused."""
    valid = {}
    for name, (dtype, configuration, values, fill) in QUANTIZED.items():
        array = np.array(values, dtype)
        form = quantized_form(dtype, configuration, array.shape[-1])
        stored = encode(array.reshape(-1, form.width), form, fill=fill)
        valid[name] = {
            "dtype": dtype, "configuration": configuration, "shape": array.shape, "fill_value": None if fill is None else str(fill),
            "written": array.astype(array.dtype.newbyteorder("<")).tobytes().hex(), "stored": stored.tobytes().hex(),
            "read": decode(stored, form).astype(array.dtype.newbyteorder("<")).tobytes().hex(),
        }  # fmt: skip

    def change(of: str, at: int, data: bytes | None) -> dict[str, Any]:
        case = valid[of]
        stored = bytes.fromhex(case["stored"])
        stored = stored[:at] if data is None else put(stored, at, data)
        return {**{key: case[key] for key in ("dtype", "configuration", "shape")}, "stored": stored.hex()}

    floats = {
        name: struct.pack("<f", value) for name, value in {"nan": NAN, "inf": INF, "minus": -1.0}.items()
    }
    invalid = {
        "empty": change("bits_8", 0, None),
        "cut_short": change("bits_8", 21, None),
        "cut_to_whole_records": change("bits_8", 11, None),
        "followed_by_more": change("bits_8", 22, b"\0"),
        "scale_negative": change("bits_8", 0, floats["minus"]),
        "scale_nan": change("bits_8", 11, floats["nan"]),
        "scale_infinite": change("bits_8", 0, floats["inf"]),
        "offset_nan": change("bits_8", 4, floats["nan"]),
        "offset_infinite": change("bits_8", 4, floats["inf"]),
        "offset_nan_where_it_is_preserved": change("preserve_8", 26, floats["nan"]),
        "end_beyond_float32": change("bits_8", 0, struct.pack("<f", 1e37)),
        "end_beyond_float16": change("float16", 0, struct.pack("<f", 1000)),
        "offset_beyond_float16": change("float16", 4, struct.pack("<f", -70000)),
        "end_beyond_float32_in_float64": change("float64", 0, struct.pack("<f", 1e38)),
        "code_after_the_last": change("bits_4", 9, b"\x1f"),
    }  # fmt: skip
    refused = {
        name: {
            "dtype": dtype, "configuration": configuration, "shape": np.shape(values), "fill_value": None if fill is None else str(fill),
            "written": np.array(values, np.dtype(dtype).newbyteorder("<")).tobytes().hex(),
        }
        for name, (dtype, configuration, values, fill) in REFUSED_VALUES.items()
    }  # fmt: skip
    return {
        "valid": valid, "invalid": invalid, "refused_values": refused, "refused_configurations": REFUSED_CONFIGURATIONS,
    }  # fmt: skip


def make(folder: Path) -> None:
    """Write all files into a folder."""
    valid, invalid = make_valid(), make_invalid()
    for part, files in (("valid", valid), ("invalid", invalid)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name, (_, data, _) in files.items():
            (folder / part / f"{name}.bin").write_bytes(data)
    indexes = make_indexes()
    documents: dict[str, Any] = {
        "valid": {
            "zstd": zstd.VERSION_NUMBER,
            "files": {name: {"parser": parser, "holds": holds} for name, (parser, _, holds) in valid.items()},
        },
        "invalid": {
            "files": {
                name: {"parser": parser, "error": error} for name, (parser, _, error) in invalid.items()
            }
        },
        "key_order": {
            "in_order": [{"key": key, "sorts_as": sort_key(key).hex()} for key in KEYS_IN_ORDER],
            "refused": BAD_KEYS,
        },
        "index": indexes,
        "index_invalid": make_invalid_indexes(indexes),
        "sq": make_quantized(),
    }
    for name, document in documents.items():
        indent = None if name.startswith("index") else 1
        (folder / f"{name}.json").write_text(json.dumps(document, indent=indent, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

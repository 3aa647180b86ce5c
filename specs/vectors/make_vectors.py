# ruff: noqa: INP001 - a script, not a package
"""Write the golden and must-fail files beside this script: ``python specs/vectors/make_vectors.py``.

Everything is fixed (ids, times, contents), so that a second run writes the same bytes. ``valid.json`` says what each
file in ``valid/`` holds, ``invalid.json`` which error each file in ``invalid/`` must raise and through which parser,
``key_order.json`` the order of keys. Bytes are in hex. Files in ``valid/`` are never changed once a release has
written stores like them: a new format version adds files.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec
from numcodecs import zstd

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


def make(folder: Path) -> None:
    """Write all files into a folder."""
    valid, invalid = make_valid(), make_invalid()
    for part, files in (("valid", valid), ("invalid", invalid)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name, (_, data, _) in files.items():
            (folder / part / f"{name}.bin").write_bytes(data)
    documents = {
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
    }
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

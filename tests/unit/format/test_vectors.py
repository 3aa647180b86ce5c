"""Do the files in ``specs/vectors`` read as their JSON says, and does today's code still write the same bytes?"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from numcodecs import zstd

from zarrvec import errors
from zarrvec.engine.version import open_version
from zarrvec.errors import KeyNameError, StoredBytesError
from zarrvec.format.commit import decode_commit
from zarrvec.format.envelope import Kind, unwrap
from zarrvec.format.keys import check_key, sort_key
from zarrvec.format.manifest import decode_page, decode_root
from zarrvec.format.pack import (
    HEADER,
    TRAILER,
    check_header,
    check_value,
    decode_footer,
    footer_length,
    pack_name,
)
from zarrvec.format.table import Table

pytestmark = pytest.mark.once

VECTORS = Path(__file__).parents[3] / "specs" / "vectors"
_spec = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make_vectors.py")
assert _spec is not None
assert _spec.loader is not None
make_vectors = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_vectors)
plain = make_vectors.plain

VALID = json.loads((VECTORS / "valid.json").read_text())
INVALID = json.loads((VECTORS / "invalid.json").read_text())
ORDER = json.loads((VECTORS / "key_order.json").read_text())


def read_table(data: bytes) -> Any:
    table = Table(data, name="vector")
    table.check_order()
    return plain(list(table))


def read_page(data: bytes) -> Any:
    table = decode_page(data, name="vector", number=9)
    table.check_order()
    return plain(list(table))


def read_commit(data: bytes) -> Any:
    commit = decode_commit(data, name="vector")
    open_version(commit)
    return {**plain(commit), "delta": read_table(commit.delta)}


def read_pack(data: bytes) -> Any:
    check_header(data[: HEADER.size], name="vector")
    length = footer_length(data[-TRAILER.size :], name="vector")
    footer = decode_footer(data[-TRAILER.size - length : -TRAILER.size], name="vector")
    values = list(Table(footer.values, name="vector"))
    held = {}
    for key, entry in values:
        end = entry.offset + entry.length
        held[key] = check_value(data[entry.offset : end], data[end : end + 4], name=key).hex()
    for at, size in footer.pages:
        decode_page(data[at : at + size], name="vector", number=7)
    if footer.root is not None:
        at, size = footer.root
        decode_root(data[at : at + size], name="vector", number=7)
    changes = read_table(footer.changes)
    return {
        "name": pack_name(footer.pack), **plain(footer), "values": plain(values), "changes": changes, "data": held,
    }  # fmt: skip


def read_envelope(data: bytes) -> Any:
    return {"kind": data[4], "payload": unwrap(data, Kind(data[4]), name="vector").hex()}


PARSERS = {
    "envelope": read_envelope,
    "table": read_table,
    "page": read_page,
    "root": lambda data: plain(decode_root(data, name="vector", number=9)),
    "commit": read_commit,
    "pack": read_pack,
}


@pytest.mark.parametrize("name", VALID["files"])
def test_golden_files_read_as_their_json_says(name):
    vector = VALID["files"][name]
    data = (VECTORS / "valid" / f"{name}.bin").read_bytes()
    assert PARSERS[vector["parser"]](data) == vector["holds"]


@pytest.mark.parametrize("name", INVALID["files"])
def test_must_fail_files_raise_their_error(name):
    vector = INVALID["files"][name]
    data = (VECTORS / "invalid" / f"{name}.bin").read_bytes()
    with pytest.raises(StoredBytesError) as caught:
        PARSERS[vector["parser"]](data)
    assert type(caught.value) is getattr(errors, vector["error"])


def test_making_them_again_gives_the_same_bytes(tmp_path):
    make_vectors.make(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {
        path.relative_to(VECTORS): path.read_bytes()
        for path in VECTORS.rglob("*")
        if path.suffix in (".bin", ".json")
    }
    assert made.keys() == kept.keys()
    if VALID["zstd"] != zstd.VERSION_NUMBER:
        return  # another zstd may write other frames of the same content, which the tests above read
    assert [str(path) for path in made if made[path] != kept[path]] == []


def test_vectors_are_small():
    files = (path for path in VECTORS.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    assert sum(path.stat().st_size for path in files) < 300_000


def test_keys_sort_as_the_vectors_say():
    keys = [row["key"] for row in ORDER["in_order"]]
    assert sorted(set(keys), key=sort_key) == keys
    assert [sort_key(key).hex() for key in keys] == [row["sorts_as"] for row in ORDER["in_order"]]
    assert [check_key(key) for key in keys] == keys


@pytest.mark.parametrize("key", ORDER["refused"], ids=repr)
def test_keys_that_are_refused(key):
    with pytest.raises(KeyNameError):
        check_key(key)

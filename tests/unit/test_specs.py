"""Are the constants on disk those of the specifications, and does every cited section exist?"""

import ast
import importlib
import json
import re
from pathlib import Path

import msgspec
import pytest

from zarrvec.engine import committer, heads, pruning, reader
from zarrvec.format import commit, envelope, keys, manifest, pack, table
from zarrvec.format.envelope import Kind
from zarrvec.layout import coalesce, fold, packing
from zarrvec.search import (
    approximate,
    build,
    calibrate,
    clustering,
    depth,
    entries,
    extending,
    groups,
    head,
    index,
    list_table,
    optimize,
    probing,
    records,
    sources,
    space,
)

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "specs"
FORMAT = (SPECS / "format.md").read_text()
COMMIT = (SPECS / "commit.md").read_text()
STORAGE = (SPECS / "storage-operations.md").read_text()
INDEX = (SPECS / "vector-index.md").read_text()

CONSTANTS = re.findall(r"^\| `(\w+)\.(\w+)` \| `(.+?)` \|", FORMAT, re.MULTILINE)
INDEX_CONSTANTS = re.findall(r"^\| `(\w+)\.([A-Z_]+)` \| `(.+?)` \|", INDEX, re.MULTILINE)


def citations():
    for path in sorted([*ROOT.glob("zarrvec/**/*.py"), *ROOT.glob("tests/**/*.py")]):
        if path == Path(__file__):
            continue
        text = re.sub(r"\s+", " ", path.read_text())
        for file, sections in re.findall(
            r"``(specs/[\w./-]+)``(?:,? sections? ((?:\"[^\"]+\"(?:, | and )?)+)|)", text
        ):
            yield path.relative_to(ROOT).as_posix(), file, re.findall(r"\"([^\"]+)\"", sections)
        for file, section in re.findall(r"``(specs/[\w./-]+)``, \"([^\"]+)\"", text):
            yield path.relative_to(ROOT).as_posix(), file, [section]


def sections(path):
    return re.findall(r"^#+ (.+?)\s*$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("module", "name", "value"), CONSTANTS)
def test_constants_are_those_of_the_spec(module, name, value):
    package = "zarrvec" if module == "types" else "zarrvec.format"
    assert getattr(importlib.import_module(f"{package}.{module}"), name) == ast.literal_eval(value)


@pytest.mark.parametrize(("module", "name", "value"), INDEX_CONSTANTS)
def test_constants_are_those_of_the_spec_of_indexes(module, name, value):
    found = getattr(importlib.import_module(f"zarrvec.search.{module}"), name)
    assert found == ast.literal_eval(value)


def test_all_constants_on_disk_are_in_the_spec():
    on_disk = {
        ("envelope", "MAGIC"), ("envelope", "VERSION"), ("envelope", "FLAG_ZSTD"), ("pack", "MAGIC"),
        ("pack", "END_MAGIC"), ("pack", "VERSION"), ("table", "INLINE"), ("table", "DELETED"), ("table", "CRC_BYTES"),
        ("types", "PACK_ID_BYTES"), ("types", "WRITE_ID_BYTES"), ("commit", "NUMBER_LIMIT"), ("keys", "MAX_KEY_BYTES"),
    }  # fmt: skip
    assert on_disk <= {(module, name) for module, name, _ in CONSTANTS}


def test_kinds():
    (line,) = re.findall(r"^Kinds: (.+)\.$", FORMAT, re.MULTILINE)
    assert line == ", ".join(f"{kind.name} {kind.value}" for kind in Kind)


def section(text, name):
    return re.split(r"^## ", text.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_sizes_of_headers():
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", section(FORMAT, "Envelope"), re.MULTILINE)
    assert sum(int(size) for _, size in rows) == envelope.HEADER.size == 20
    assert [int(at) for at, _ in rows] == [0, 4, 5, 6, 8, 12, 16]
    assert pack.HEADER.size == 8
    assert pack.TRAILER.size == 16
    assert table.HEADER.size == 6 * 4


@pytest.mark.parametrize(
    ("text", "name", "struct"),
    [
        (FORMAT, "Root", manifest._RootRecord),
        (FORMAT, "Pack", pack.Footer),
        (COMMIT, "Commit", commit.Commit),
    ],
)
def test_records_have_the_fields_of_the_spec(text, name, struct):
    told = re.findall(r"^\| +(\d+) \| ([a-z ]+?) \|", section(text, name), re.MULTILINE)
    short = {"time_us": "time"}
    fields = [short.get(field, field).replace("_", " ") for field in struct.__struct_fields__]
    described = [row for row in told if row[1] in fields]
    assert [field for _, field in described] == fields
    assert [int(number) for number, _ in described] == list(range(len(fields)))
    assert msgspec.structs.fields(struct)


@pytest.mark.parametrize(
    ("name", "dtype", "is_first"),
    [
        ("Lists", records.LIST_HEAD, True),
        ("Lists", list_table.SHARED_HEAD, False),
        ("Groups", records.LIST_HEAD, True),
    ],
)
def test_rows_of_lists_are_those_of_the_spec(name, dtype, is_first):
    tables = re.split(r"^\| offset \|", section(INDEX, name), flags=re.MULTILINE)[1:]
    told = re.findall(r"^\| (\d+) \| (\w+) \| ([a-z ]+?) \|", tables[0 if is_first else 1], re.MULTILINE)
    fields = [
        (dtype.fields[field][1], dtype[field].itemsize, field.replace("_", " ")) for field in dtype.names
    ]
    assert [(int(at), int(size), field) for at, size, field in told if size != "d"] == fields
    assert f"(lists, {dtype.itemsize}{' + d' if is_first else ''})" in section(INDEX, "Group")


@pytest.mark.parametrize(
    ("name", "struct"),
    [
        ("Head", head.Head),
        ("Head", head.Segment),
        ("Groups", head.Groups),
        ("Calibration", head.Calibration),
    ],
)
def test_heads_have_the_fields_of_the_spec(name, struct):
    told = re.findall(r"^\| `(\w+)` \|", section(INDEX, name), re.MULTILINE)
    assert [field for field in struct.__struct_fields__ if field not in told] == []
    if struct is not head.Segment:
        assert [field for field in told if field in struct.__struct_fields__] == list(
            struct.__struct_fields__
        )


@pytest.mark.parametrize("struct", [head.Curve, head.Deleted])
def test_parts_of_heads_have_the_fields_of_the_spec(struct):
    for field in struct.__struct_fields__:
        assert f"`{field}`:" in INDEX


def test_metadata_names():
    told = set(
        re.findall(r"`([\w.]+)`", FORMAT.partition("*metadata*, if its last segment is")[2].partition(";")[0])
    )
    assert told == keys.METADATA_NAMES


@pytest.mark.parametrize(
    ("text", "words", "value"),
    [
        (COMMIT, "exceeds 16 KiB", fold.DELTA_BYTES / 1024 == 16),
        (COMMIT, "at most 32 KiB", fold.METADATA_BYTES / 1024 == 32),
        (COMMIT, "add up to at most 8 KiB", fold.INDEX_BYTES / 1024 == 8),
        (COMMIT, "which contain `.vec/`", fold._IN_INDEX == ".vec/"),
        (COMMIT, "does not contain `/entries/`", fold._ENTRIES == "/entries/"),
        (COMMIT, "exceeds 128 KiB", fold.DELTA_LIMIT_BYTES / 1024 == 128),
        (COMMIT, "at most 4 KiB", fold.TINY_COMMIT_BYTES / 1024 == 4),
        (COMMIT, "(512 bytes; metadata documents 64 KiB)", (fold.INLINE_BYTES, fold.METADATA_INLINE_BYTES) == (512, 65536)),
        (COMMIT, "at least 1,024", fold._APPEND_ENTRIES == 1024),
        (COMMIT, "at most 6 times", int(committer.CREATE_TRIES) == 6),
        (COMMIT, "multiple of 64 SHOULD", pruning.EVERY == 64),
        (COMMIT, "of the 256 commits behind the newest 64 and those younger", (pruning.LOOK_AT, pruning.KEEP_NEWEST) == (256, 64)),
        (COMMIT, "those younger than 10 minutes", pruning.KEEP_SECONDS == 600 == 2 * heads.TRUST_NEXT_SECONDS),
        (STORAGE, "at most 1 MiB", reader.METADATA_AHEAD_BYTES == 1 << 20),
        (COMMIT, "After 300 s", heads.TRUST_NEXT_SECONDS == 300),
        (COMMIT, "8 hex digits", heads.MIN_ID_DIGITS == 8),
        (FORMAT, "(16 MiB by default)", packing.PACK_BYTES == 16 << 20),
        (STORAGE, "at most 256 KiB", coalesce.GAP_BYTES == 256 << 10),
        (STORAGE, "longer than 8 MiB", coalesce.READ_BYTES == 8 << 20),
        (STORAGE, "At most 64 requests", reader.CONCURRENCY == 64),
        (STORAGE, "a cache of 64 MiB", reader.PAGE_CACHE_BYTES == 64 << 20),
        (STORAGE, "the newest 32 MiB", reader.KEPT_BYTES == 32 << 20),
        (INDEX, "chunks of at most 16 MiB", entries.CHUNK_BYTES == 16 << 20),
        (INDEX, "inner chunks of about 256 KiB, shards of at most about 64 MiB", (entries.INNER_BYTES, entries.SHARD_BYTES) == (256 << 10, 64 << 20)),
        (INDEX, "at most 8 MiB and in no shards", index.WHOLE_BYTES == 8 << 20),
        (INDEX, "at most 128 KiB", sources.GAP_BYTES == 128 << 10),
        (INDEX, "2k + 10 candidates (6k + 30 of 4 bits)", (depth.candidates_for(1, 8), depth.candidates_for(2, 4)) == (12, 42)),
        (INDEX, "more than twice that of ranking by rows", depth.RERANK_WORTH == 2),
        (INDEX, "under `cosine` 0.6 |c|^2, under `ip` -0.4 |q| radius", (probing.COSINE_SHRINKAGE, 2 * probing.IP_SPREAD) == (0.6, 0.4)),
        (INDEX, "max(0.6, share^0.15)", (depth._LEAST_MISSED, depth._MISSED_POWER) == (0.6, 0.15)),
        (INDEX, "fewer than 0.8 times as many", approximate._FEWER == 0.8),
        (INDEX, "until it has met 6 times as many", approximate._MORE_THERE == 6),
        (INDEX, "one list for 100 rows", build.LIST_ROWS == 100),
        (INDEX, "40 rows a list or more", build.SAMPLE_ROWS == 40),
        (INDEX, "1,000 rows of the sample", build.CALIBRATION_ROWS == 1000),
        (INDEX, "Among the next 15 nearest", clustering.CANDIDATES == 16),
        (INDEX, "+ 1.5 (r'.r / |r|)^2", clustering.SOAR_STRENGTH == 1.5),
        (INDEX, "half of the rows have one", clustering.SECOND_SHARE == 0.5),
        (INDEX, "up to 1,024 lists", clustering.FLAT_TRAINING_LISTS == 1024),
        (INDEX, "longer than 8 MiB", groups.ROOT_BYTES == 8 << 20),
        (INDEX, "`seen` * (nprobe + 64)", groups.ALWAYS == 64),
        (INDEX, "1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 and 64", calibrate._SEEN == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)),
        (INDEX, "at most 0.003 of `recall` at every nprobe and k at which that was 0.8 or more", (calibrate._LOSS, calibrate._HIGH) == (0.003, 0.8)),
        (INDEX, "8 sqrt(`nlist`) groups", groups.GROUPS == 8),
        (INDEX, "a group of more than 4 times the mean", groups.OVERGROWN == 4),
        (INDEX, "above 10^15", space._FAR == 1e15),
        (INDEX, "at least 1 MiB: a segment", extending.PENDING_BYTES == 1 << 20),
        (INDEX, "Three or more later segments of about its size or less (fewer than 4 times the rows)", extending.SEGMENTS_OF_A_SIZE == 4),
        (INDEX, "more than 4 times the mean", optimize.OVERGROWN == 4),
        (INDEX, "1.25 times as far from their centroids and at least 2 % of all", (optimize.DRIFT, optimize.DRIFT_SHARE) == (1.25, 0.02)),
    ],
)  # fmt: skip
def test_numbers_in_the_text(text, words, value):
    assert words in text
    assert value


@pytest.mark.parametrize(("where", "file", "cited"), list(citations()))
def test_cited_sections_exist(where, file, cited):
    path = ROOT / file
    assert path.exists(), f"{where} cites {file}"
    if cited:
        assert set(cited) <= set(sections(path)), f"{where} cites {file}"


def test_the_sections_that_others_rely_on_exist():
    assert {"Envelope", "Key order", "Table", "Manifest page", "Root", "Pack"} <= set(
        sections(SPECS / "format.md")
    )
    assert {
        "Delta", "Folding", "Committing", "Conflicts", "Opening", "References", "Packing", "Transactions",
    } <= set(sections(SPECS / "commit.md"))  # fmt: skip
    assert {
        "Space", "Group", "Groups", "Head", "Segments", "Lists", "Entries", "Codes", "Coverage", "Deleted", "Queries",
        "Calibration", "Reading", "Search", "Exact search", "Building", "Changes", "Choices",
    } <= set(sections(SPECS / "vector-index.md"))  # fmt: skip
    assert {"Configuration", "Records", "Values", "Error", "Encoding", "Reading", "Format 2"} <= set(
        sections(SPECS / "codecs" / "sq.md")
    )
    assert {"Reads", "Listings", "fsspec"} <= set(sections(SPECS / "storage-operations.md"))


@pytest.mark.parametrize("path", sorted(SPECS.rglob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert (path.parent / link).exists(), link


def test_hex_examples_are_those_of_the_vectors():
    """Each hex example, blanks and remarks left out, stands in a golden file."""
    data = {path.stem: path.read_bytes().hex() for path in (SPECS / "vectors" / "valid").glob("*.bin")}
    assert _hex(section(FORMAT, "Envelope")) == data["envelope_stored"]
    assert _hex(section(FORMAT, "Root")) == data["root_empty"]


def test_hex_examples_of_indexes_are_those_of_the_vectors():
    values = json.loads((SPECS / "vectors" / "index.json").read_text())["l2"]["values"]
    first, later = section(INDEX, "Lists").split("```\n")[1::2]
    assert values["a0000000000000a1/lists/c/0/0"].startswith(_hex(f"```\n{first}"))
    assert values["b0000000000000b1/lists/c/0/0"].startswith(_hex(f"```\n{later}"))
    assert values["b0000000000000b1/entries/c/0/0"].startswith(_hex(section(INDEX, "Entries")))


def _hex(text):
    line = text.partition("```\n")[2].partition("\n")[0]
    return "".join(re.findall(r"^(?:[0-9a-f]{2,} *)+", line)[0].split())

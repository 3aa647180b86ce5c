"""Shards written by ours are read by zarr, zarrs and TensorStore, and theirs by ours; what zarr writes is the same byte by byte."""

import json

import numpy as np
import pytest
import tensorstore
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore

OURS = {"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}
ZARR = {"codecs.sharding_indexed": "zarr.codecs.sharding.ShardingCodec"}
ZARRS = {**ZARR, "codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
SHAPE, SHARD, INNER = (50, 33), (20, 12), (5, 4)  # the last shards reach beyond the array

INNER_CODECS = {
    "plain": [BytesCodec(endian="little")],
    "zstd": [BytesCodec(endian="little"), ZstdCodec(level=3)],
    "blosc": [BytesCodec(endian="little"), BloscCodec(typesize=4, cname="lz4", shuffle="bitshuffle")],
    "transposed": [TransposeCodec(order=(1, 0)), BytesCodec(endian="big"), ZstdCodec(level=1), Crc32cCodec()],
}


def values(dtype):
    """Numbers with places where whole inner chunks, and a whole shard, are empty."""
    data = (np.arange(np.prod(SHAPE)).reshape(SHAPE) * 37 % 251).astype(dtype)
    data[5:15, 4:12] = 0
    data[20:40, 12:24] = 0
    return data


def create(path, dtype, codecs="zstd", location="end"):
    """Create an empty sharded array, with the metadata that zarr's own codec leaves."""
    serializer = ShardingCodec(chunk_shape=INNER, codecs=INNER_CODECS[codecs], index_location=location)
    zarr.create_array(
        LocalStore(path), shape=SHAPE, dtype=dtype, chunks=SHARD, serializer=serializer, filters=None, compressors=None,
        fill_value=0,
    )  # fmt: skip


def write_zarr(path, data, config):
    with zarr.config.set(config):
        array = zarr.open_array(LocalStore(path), mode="r+")
        array[:30] = data[:30]  # a part of a row of shards, then the rest
        array[30:] = data[30:]


def read_zarr(path, config):
    with zarr.config.set(config):
        array = zarr.open_array(LocalStore(path), mode="r")
        assert np.array_equal(array[3:29, 5:11], array[:][3:29, 5:11])
        return array[:]


def open_tensorstore(path):
    return tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}).result()


def write_tensorstore(path, data):
    array = open_tensorstore(path)
    array[:30].write(data[:30]).result()
    array[30:].write(data[30:]).result()


WRITERS = {
    "ours": lambda path, data: write_zarr(path, data, OURS),
    "zarr": lambda path, data: write_zarr(path, data, ZARR),
    "zarrs": lambda path, data: write_zarr(path, data, ZARRS),
    "tensorstore": write_tensorstore,
}
READERS = {
    "ours": lambda path: read_zarr(path, OURS),
    "zarr": lambda path: read_zarr(path, ZARR),
    "zarrs": lambda path: read_zarr(path, ZARRS),
    "tensorstore": lambda path: open_tensorstore(path).read().result(),
}
PAIRS = [("ours", reader) for reader in READERS] + [
    (writer, "ours") for writer in WRITERS if writer != "ours"
]


@pytest.mark.parametrize(
    ("codecs", "location"), [("plain", "start"), ("zstd", "end"), ("blosc", "end"), ("transposed", "start")]
)
@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_what_one_writes_the_other_reads(tmp_path, writer, reader, codecs, location):
    data = values("f4")
    create(tmp_path / "x", "f4", codecs, location)
    WRITERS[writer](tmp_path / "x", data)
    assert np.array_equal(READERS[reader](tmp_path / "x"), data)


@pytest.mark.parametrize("dtype", ["u2", "c8", "bool"])
@pytest.mark.parametrize(("writer", "reader"), [pair for pair in PAIRS if pair != ("ours", "ours")])
def test_data_types(tmp_path, writer, reader, dtype):
    data = values(dtype)
    create(tmp_path / "x", dtype)
    WRITERS[writer](tmp_path / "x", data)
    assert np.array_equal(READERS[reader](tmp_path / "x"), data)


@pytest.mark.filterwarnings("ignore:The data type:zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("dtype", ["str", "bytes"])
@pytest.mark.parametrize(
    ("writer", "reader"), [("ours", "zarr"), ("zarr", "ours"), ("ours", "zarrs"), ("zarrs", "ours")]
)
def test_variable_length(tmp_path, writer, reader, dtype):
    kind = zarr.dtype.VariableLengthBytes() if dtype == "bytes" else str
    data = np.array([["x" * (row * col % 9) for col in range(6)] for row in range(20)], dtype=object)
    if dtype == "bytes":
        data = np.vectorize(str.encode, otypes=[object])(data)
    path = tmp_path / "x"
    zarr.create_array(LocalStore(path), shape=data.shape, dtype=kind, chunks=(5, 3), shards=(10, 6))
    with zarr.config.set(ZARRS if writer == "zarrs" else OURS if writer == "ours" else ZARR):
        array = zarr.open_array(LocalStore(path), mode="r+")
        array[:] = data
        array[3:7, 2] = data[3:7, 2]
    assert (
        read_zarr(path, ZARRS if reader == "zarrs" else OURS if reader == "ours" else ZARR).tolist()
        == data.tolist()
    )


@pytest.mark.parametrize(
    ("codecs", "location"), [("plain", "start"), ("zstd", "end"), ("blosc", "end"), ("transposed", "start")]
)
def test_the_bytes_are_zarrs(tmp_path, codecs, location):
    data = values("i4")
    for name, config in (("ours", OURS), ("zarr", ZARR)):
        create(tmp_path / name, "i4", codecs, location)
        write_zarr(tmp_path / name, data, config)
        write_zarr(tmp_path / name, data[::-1], config)
    files = {
        name: sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("ours", "zarr")
    }
    assert [p.relative_to(tmp_path / "ours") for p in files["ours"]] == [
        p.relative_to(tmp_path / "zarr") for p in files["zarr"]
    ]
    assert [p.read_bytes() for p in files["ours"]] == [p.read_bytes() for p in files["zarr"]]


def test_the_metadata_names_the_core_codec(tmp_path):
    with zarr.config.set(OURS):
        create(tmp_path / "x", "i4")
        array = zarr.open_array(LocalStore(tmp_path / "x"), mode="r+")
        assert type(array.metadata.codecs[0]).__module__ == "zarrvec.codecs.shard"
        array.attrs["a"] = 1  # writes the metadata anew
        array.resize((60, 33))
    (codec,) = json.loads((tmp_path / "x" / "zarr.json").read_text())["codecs"]
    assert codec["name"] == "sharding_indexed"
    assert set(codec["configuration"]) == {"chunk_shape", "codecs", "index_codecs", "index_location"}

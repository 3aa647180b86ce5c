"""Does zarr store vectors as codes, in all ways that it stores arrays, and are single rows read by their bytes?"""

import json

import numpy as np
import pytest
import zarr
from numcodecs import get_codec
from zarr.codecs.numcodecs import AsType
from zarr.core import codec_pipeline
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import zarrvec
from zarrvec.codecs.quantizer import Form, declared_error, encode
from zarrvec.codecs.sq import ScalarQuantizer
from zarrvec.codecs.sq_format_2 import ScalarQuantizerFilter
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.counting import count_requests
from zarrvec.errors import CodecError, CorruptError
from zarrvec.faces.targets import repository_of

SHAPE, CHUNKS = (230, 20), (50, 20)
VECTORS = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")
ZSTD = {"name": "zstd", "configuration": {"level": 3}}
OURS = "zarrvec.faces.pipeline.ZarrVecCodecPipeline"
ZARRS = "zarr.core.codec_pipeline.BatchedCodecPipeline"


def options(zarr_format=3, *, bits=8, dtype="f4", width=20, **more):
    if zarr_format == 2:
        filters = [
            get_codec(
                {"id": "zarrvec.sq", "bits": bits, "dtype": np.dtype(dtype).str, "width": width, **more}
            )
        ]
        return {"zarr_format": 2, "filters": filters, "compressors": None}
    serializer = {"name": "zarrvec.sq", "configuration": {"bits": bits, **more}}
    return {"serializer": serializer, "compressors": None}


WAYS = {
    "alone": options(),
    "bits_4": options(bits=4),
    "then_zstd": options() | {"compressors": [ZSTD]},
    "in_shards": options() | {"shards": (100, 20)},
    "in_shards_then_zstd": options() | {"shards": (100, 20), "compressors": [ZSTD]},
    "format_2": options(2),
    "format_2_then_zstd": options(2) | {"compressors": get_codec({"id": "zstd", "level": 3})},
    "fortran_memory": options() | {"config": {"order": "F"}},
}


@pytest.fixture(params=["memory", "local", "zarrvec"])
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path)
    return zarrvec.open_store(f"zarrvec://{tmp_path}/x.zarr")


@pytest.fixture(params=[OURS, ZARRS], ids=["our_pipeline", "zarrs_pipeline"])
def pipeline(request):
    import zarrvec.faces.pipeline  # noqa: F401 - registers it

    with zarr.config.set({"codec_pipeline.path": request.param}):
        yield request.param


def make(store, **more):
    more = {"shape": SHAPE, "chunks": CHUNKS, "dtype": "f4", **more}
    return zarr.create_array(store, **more)


def bound_of(vectors, bits):
    form = Form(bits=bits, width=vectors.shape[-1], dtype=vectors.dtype)
    return declared_error(encode(vectors, form), vectors, form)


@pytest.mark.parametrize("way", WAYS)
def test_arrays_read_within_the_bound(way, store, pipeline):
    array = make(store, **WAYS[way])
    array[:] = VECTORS
    found = zarr.open_array(store, mode="r")[:]
    assert (np.abs(found.astype("f8") - VECTORS) <= bound_of(VECTORS, 4 if way == "bits_4" else 8)).all()
    mask = found > 1.5
    for selection in (
        np.s_[3],
        np.s_[3:60, 2:5],
        np.s_[::7],
        np.s_[5, 6],
        np.s_[-1],
        np.s_[..., 2],
        np.s_[50:100],
    ):
        np.testing.assert_array_equal(array[selection], found[selection], strict=True)
    np.testing.assert_array_equal(array.oindex[[1, 5, 199]], found[[1, 5, 199]])
    np.testing.assert_array_equal(array.oindex[:, [1, 2]], found[:, [1, 2]])
    np.testing.assert_array_equal(array.oindex[[1, 200], [3, 4, 5]], found[np.ix_([1, 200], [3, 4, 5])])
    np.testing.assert_array_equal(array.oindex[mask[:, 0], 3], found[mask[:, 0], 3])
    np.testing.assert_array_equal(array.vindex[[200, 1], [3, 4]], found[[200, 1], [3, 4]])
    np.testing.assert_array_equal(array.vindex[mask], found[mask])
    block = 50 if array.shards is None else 100
    np.testing.assert_array_equal(array.blocks[1], found[block : 2 * block])


@pytest.mark.skipif(
    not hasattr(codec_pipeline, "FusedCodecPipeline"), reason="zarr has no fused pipeline yet"
)
@pytest.mark.parametrize("way", WAYS)
def test_zarrs_fused_pipeline(way):
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}):
        array = make(MemoryStore(), **WAYS[way])
        array[:] = VECTORS
        found = array[:]
        assert (np.abs(found.astype("f8") - VECTORS) <= bound_of(VECTORS, 4 if way == "bits_4" else 8)).all()
        np.testing.assert_array_equal(array[3:60, 2:5], found[3:60, 2:5])
        np.testing.assert_array_equal(array.oindex[[1, 5, 199]], found[[1, 5, 199]])
        array[3] = 0.5
        np.testing.assert_array_equal(array[4:], found[4:])


@pytest.mark.parametrize("way", ["alone", "in_shards", "format_2"])
def test_writing_a_part_leaves_the_rest_as_it_was_read(way, store):
    array = make(store, **WAYS[way])
    array[:] = VECTORS
    before = array[:]
    for row in range(3):
        array[row] = 0.5
        array[60 + row, 3] = before[60 + row, 3]
    after = array[:]
    assert (after[:3] == 0.5).all()
    np.testing.assert_array_equal(after[3:], before[3:])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_dtypes(dtype, zarr_format):
    array = make(MemoryStore(), dtype=dtype, **options(zarr_format, dtype=dtype))
    array[:] = VECTORS.astype(dtype)
    found = array[:]
    assert found.dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
    assert np.abs(found.astype("f8") - VECTORS).max() < 0.02
    np.testing.assert_array_equal(array[7], found[7])


def test_metadata_names_the_codec():
    store = MemoryStore()
    make(store, **options(bits=4))
    document = json.loads(bytes(store._store_dict["zarr.json"].to_bytes()))
    assert document["codecs"] == [{"name": "zarrvec.sq", "configuration": {"bits": 4, "nonfinite": "refuse"}}]
    store = MemoryStore()
    make(store, **options(2))
    document = json.loads(bytes(store._store_dict[".zarray"].to_bytes()))
    assert document["filters"] == [
        {"id": "zarrvec.sq", "bits": 8, "dtype": "<f4", "nonfinite": "refuse", "width": 20}
    ]


class Counted(WrapperStore):
    """Counts what is read of chunks."""

    def __init__(self, store):
        super().__init__(store)
        self.reads = []

    async def get(self, key, prototype, byte_range=None):
        found = await self._store.get(key, prototype, byte_range)
        if key.startswith("c/"):
            self.reads.append(len(found))
        return found


@pytest.mark.parametrize(
    ("selection", "records"),
    [
        (np.s_[3], [1]),
        (np.s_[3:9], [6]),
        (np.s_[3:9, 2], [6]),
        (np.s_[48:53], [2, 3]),
        (np.s_[:50], [50]),
        (np.s_[10:50:10], [31]),  # the gaps are shorter than a request is worth
    ],
)
def test_rows_are_read_by_their_bytes(selection, records, pipeline):
    store = Counted(MemoryStore())
    make(store, **options())[:] = VECTORS
    array = zarr.open_array(store, mode="r+")
    store.reads.clear()
    expected = zarr.open_array(store._store, mode="r")[:][selection]
    np.testing.assert_array_equal(array[selection], expected)
    assert sorted(store.reads) == [count * 28 for count in records]


def test_rows_far_apart_are_read_one_by_one():
    store = Counted(MemoryStore())
    vectors = np.tile(VECTORS[:100], (1, 400))
    array = make(store, shape=(100, 8000), chunks=(100, 8000), **options(width=8000))
    array[:] = vectors
    store.reads.clear()
    found = array.oindex[[1, 2, 60]]
    assert sorted(store.reads) == [8008, 16016]
    assert np.abs(found - vectors[[1, 2, 60]]).max() < 0.02


def test_a_zarrvec_store_reads_a_row_by_its_bytes_and_whole_chunks_together(tmp_path):
    url = f"zarrvec://{tmp_path}/x.zarr"
    vectors = np.random.default_rng(1).standard_normal((40_000, 64)).astype("f4")
    array = zarr.create_array(url, shape=vectors.shape, chunks=(1_000, 64), dtype="f4", **options(width=64))
    array[:] = vectors
    requests = run_sync(count_requests(repository_of(array)[0].place))
    before = requests.copy()
    row = array[12_345]
    assert requests.since(before).read_bytes < 50_000
    before = requests.copy()
    found = array[:]
    assert requests.since(before).get <= 4
    np.testing.assert_array_equal(row, found[12_345])
    before = requests.copy()
    np.testing.assert_array_equal(array[500:39_500], found[500:39_500])
    assert requests.since(before).get <= 5


def test_missing_chunks_are_the_fill_value(store):
    array = make(store, fill_value=7, **options())
    array[:50] = VECTORS[:50]
    assert (array[60] == 7).all()
    assert (array[60:63, 2] == 7).all()
    assert (array[50:] == 7).all()


def test_a_fill_value_of_nan_may_stand_over_the_edge_and_in_rows_that_were_not_written(store):
    array = make(store, fill_value=np.nan, **options())
    array[225:] = VECTORS[225:]
    assert np.isnan(array[200:225]).all()
    assert np.abs(array[225:] - VECTORS[225:]).max() < 0.02
    assert np.isnan(array[201]).all()
    with pytest.raises(CodecError, match=r"zarrvec\.sq: at \(25, 1\) of a chunk of shape \(50, 20\): nan"):
        array[225, 1] = np.nan


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_values_that_are_not_finite_are_preserved_where_that_is_asked_for(bits, zarr_format):
    vectors = VECTORS.copy()
    vectors[3, 4], vectors[3, 5], vectors[7], vectors[9, 0] = np.nan, np.inf, np.nan, -np.inf
    array = make(MemoryStore(), **options(zarr_format, bits=bits, nonfinite="preserve"))
    array[:] = vectors
    found = array[:]
    special = ~np.isfinite(vectors)
    np.testing.assert_array_equal(found[special], vectors[special])
    assert np.isfinite(found[~special]).all()
    assert np.nanmax(np.abs(found[~special] - vectors[~special])) < (0.02 if bits == 8 else 0.4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_values_that_are_not_finite_are_refused_with_their_place(value, zarr_format):
    array = make(MemoryStore(), shape=(6, 4, 20), chunks=(3, 4, 20), **options(zarr_format))
    vectors = np.zeros((6, 4, 20), "f4")
    vectors[4, 2, 7] = value
    with pytest.raises(
        CodecError, match=rf"at \(1, 2, 7\) of a chunk .*{value} can't be held.*nonfinite='preserve'"
    ):
        array[:] = vectors


@pytest.mark.parametrize("dtype", ["i4", "u1", "bool", "c8"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_other_dtypes_are_refused(dtype, zarr_format):
    with pytest.raises(CodecError, match="takes float16, float32, float64, not"):
        make(MemoryStore(), dtype=dtype, **options(zarr_format, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_arrays_without_vectors_are_refused(shape):
    with pytest.raises(CodecError, match="takes vectors, rows along the last axis"):
        make(MemoryStore(), shape=shape, chunks=tuple(max(1, size) for size in shape), **options())


@pytest.mark.parametrize(
    "wrong", [{"bits": 5}, {"nonfinite": "ignore"}, {"width": 0}, {"width": 2.5}, {"dtype": "i4"}]
)
def test_wrong_configurations_of_filters_are_refused(wrong):
    with pytest.raises(CodecError, match=r"zarrvec\.sq"):
        get_codec({"id": "zarrvec.sq", "dtype": "<f4", "width": 20, **wrong})


def test_a_filter_for_other_chunks_is_refused():
    with pytest.raises(CodecError, match="set width=20"):
        make(MemoryStore(), **options(2, width=10))[:] = VECTORS
    with pytest.raises(CodecError, match="set width=20 and dtype='<f8'"):
        make(MemoryStore(), dtype="f8", **options(2))[:] = VECTORS
    with pytest.raises(CodecError, match="order='C'"):
        make(MemoryStore(), order="F", **options(2))[:] = VECTORS


def test_filters_decode_into_a_buffer():
    codec = ScalarQuantizerFilter(width=20, dtype="<f4")
    stored = codec.encode(VECTORS)
    out = np.empty(SHAPE, "f4")
    codec.decode(stored, out=out)
    np.testing.assert_array_equal(out.reshape(-1), codec.decode(stored))
    with pytest.raises(CorruptError, match="no whole number of records"):
        codec.decode(stored[:-1])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_a_filter_may_stand_before_it():
    array = make(
        MemoryStore(), dtype="f8", filters=[AsType(encode_dtype="<f4", decode_dtype="<f8")], **options()
    )
    array[:] = VECTORS
    assert np.abs(array[:] - VECTORS).max() < 0.02


@pytest.mark.parametrize("length", [0, 27, 28, 1399, 1401])
@pytest.mark.parametrize("selection", [np.s_[:50], np.s_[49], np.s_[40:49]])
def test_a_chunk_cut_short_is_corrupt(length, selection):
    store = MemoryStore()
    array = make(store, **options())
    array[:] = VECTORS
    stored = store._store_dict["c/0/0"].to_bytes()
    store._store_dict["c/0/0"] = default_buffer_prototype().buffer.from_bytes((stored + b"\0")[:length])
    if selection != np.s_[:50] and length >= 28 * (50 if selection == np.s_[49] else 49):
        assert array[selection].shape[-1] == 20  # these rows are there
        return
    with pytest.raises(CorruptError, match=r"zarrvec\.sq"):
        array[selection]


def test_sizes_are_told():
    array = make(MemoryStore(), **options(bits=4))
    array[:] = VECTORS
    assert len(array.store._store_dict["c/0/0"]) == 50 * (8 + 10)
    assert array.nbytes_stored() > 5 * 50 * (8 + 10)


def test_codecs_pickle_and_compare():
    import pickle

    codec = ScalarQuantizer(bits=4, nonfinite="preserve")
    assert pickle.loads(pickle.dumps(codec)) == codec == ScalarQuantizer.from_dict(codec.to_dict())
    filter_2 = ScalarQuantizerFilter(width=3, dtype="f4")
    assert pickle.loads(pickle.dumps(filter_2)) == filter_2 == get_codec(filter_2.get_config())

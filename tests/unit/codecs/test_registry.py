"""Are candidates gathered from all who offer them, does zarr store and read with each, and does a broken plugin stand alone?"""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import zarr

from zarrvec.codecs import registry
from zarrvec.codecs.bounds import ErrorBound
from zarrvec.codecs.registry import Candidate, candidates
from zarrvec.errors import CodecError, PluginWarning

SHAPE, CHUNKS = (60, 24), (20, 24)
DTYPES = ("u1", "bool", "i2", "u8", "f2", "f4", "f8", ">f4", "c8", "M8[s]", "S5")
quiet = pytest.mark.filterwarnings(
    "ignore:Numcodecs codecs are not in the Zarr version 3",
    "ignore:The data type:FutureWarning",
    "ignore:.*Zarr V3:Warning",
)


def values(dtype):
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return random.standard_normal(SHAPE).astype(dtype)
    if np.dtype(dtype).kind == "c":
        return random.standard_normal(SHAPE).astype(dtype) * 1j
    return random.integers(0, 99, SHAPE).astype("i8").astype(dtype)


def names(dtype, shape=CHUNKS):
    return [candidate.name for candidate in candidates(dtype, shape)]


@quiet
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_stores_and_reads_with_every_candidate(dtype, zarr_format):
    written = values(dtype)
    for candidate in candidates(dtype, CHUNKS):
        array = zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=SHAPE,
            chunks=CHUNKS,
            dtype=dtype,
            zarr_format=zarr_format,
            **candidate.options(zarr_format),
        )
        array[:] = written
        read = zarr.open_array(array.store, mode="r")[:]
        if candidate.max_error is None:
            np.testing.assert_array_equal(read, written, err_msg=candidate.name)
        else:
            error = np.abs(read.astype("f8") - written.astype("f8"))
            assert (error <= candidate.max_error.of(written)).all(), candidate.name


def test_names_by_dtype():
    assert names("u1")[:5] == [
        "raw", "blosc-lz4", "blosc-lz4-bitshuffle", "blosc-zstd", "blosc-zstd-bitshuffle",
    ]  # fmt: skip
    assert {"blosc-zstd-shuffle", "zstd-3", "pcodec", "float16", "sq-int8", "sq-int4"} <= set(names("f4"))
    assert "float16" not in names("f2")
    assert not any(candidate.lossy for candidate in candidates("i4", CHUNKS))
    assert "sq-int8" not in names("f4", ())
    assert len(set(names("f4"))) == len(names("f4"))


def test_candidates_are_json():
    for candidate in candidates("f8", CHUNKS):
        told = [
            candidate.filters,
            candidate.serializer,
            candidate.compressors,
            candidate.filters_2,
            candidate.compressor_2,
        ]
        assert json.loads(json.dumps(told))


@pytest.mark.parametrize("dtype", ["O", "V0", np.dtypes.StringDType()])
def test_dtypes_of_no_fixed_size_are_refused(dtype):
    with pytest.raises(CodecError, match="no fixed size"):
        candidates(dtype, CHUNKS)


def test_axes_of_size_0_are_refused():
    with pytest.raises(CodecError, match=r"\(3, 0\)"):
        candidates("f4", (3, 0))


def test_what_format_2_does_not_have():
    with pytest.raises(CodecError, match="'x' is not to be had in Zarr format 2"):
        Candidate(name="x").options(2)


def test_bounds():
    values = np.array([[1.0, -3.0, 100.0]])
    assert ErrorBound(absolute=1, relative=0.5, of_range=0.1).of(values).tolist() == [[11.8, 12.8, 61.3]]
    assert ErrorBound(absolute=1, largest=99).of(values).tolist() == [[1, 1, np.inf]]


def offer_one(dtype, chunk_shape):
    yield Candidate(name=f"of-{dtype}-{len(chunk_shape)}", dtypes=frozenset({"float32"}))


def offer_taken(dtype, chunk_shape):
    return [Candidate(name="raw")]


def offer_twice(dtype, chunk_shape):
    return [Candidate(name="twice"), Candidate(name="twice")]


def offer_else(dtype, chunk_shape):
    return ["raw"]


def offer_error(dtype, chunk_shape):
    raise ZeroDivisionError("by nothing")


def absent(dtype, chunk_shape):
    raise NotImplementedError


@pytest.fixture
def plugins(monkeypatch):
    """Install plugins that offer what a function of this file offers; `absent` can't be imported."""
    found = list(registry.entry_points(group="zarrvec.codecs"))
    offers: dict[str, registry.Offer] = {}
    load = EntryPoint.load
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    monkeypatch.setattr(EntryPoint, "load", lambda point: offers.get(point.value) or load(point))

    def add(name, offer):
        point = EntryPoint(name, f"no_such_module:{offer.__name__}", "zarrvec.codecs")
        found.insert(0, point)
        if offer is not absent:
            offers[point.value] = offer

    return add


def test_plugins_come_after_ours_and_for_their_dtypes(plugins):
    own = names("f4")
    plugins("another", offer_one)
    assert [name for name in names("f4") if name not in own] == ["of-float32-2"]
    assert names("f4").index("of-float32-2") >= own.index("sq-int4-zstd")
    assert "of-float64-2" not in names("f8")


@pytest.mark.parametrize(
    ("offer", "complaint"),
    [
        (offer_error, "ZeroDivisionError: by nothing"),
        (absent, "ModuleNotFoundError"),
        (offer_taken, "'raw' is the name of a candidate that another offers"),
        (offer_twice, "two candidates of one name"),
        (offer_else, "'raw', which is no zarrvec.codecs.registry.Candidate"),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_stand(plugins, offer, complaint):
    own = names("f4")
    plugins("broken", offer)
    plugins("works", offer_one)
    with pytest.warns(PluginWarning, match=f"the codecs of plugin 'broken' .*are left out: .*{complaint}"):
        found = names("f4")
    assert set(found) == {*own, "of-float32-2"}

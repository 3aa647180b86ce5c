"""Any array in any chunks, rewritten in any others, equals numpy's, in place and elsewhere."""

import tempfile
from typing import Any

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import zarrvec

CODECS: Any = {
    3: [{"compressors": None}, {"compressors": zarr.codecs.GzipCodec()}, {}],
    2: [{"compressors": None}, {}],
}


@st.composite
def rewritings(draw):
    axes = draw(st.integers(1, 3))
    lengths = st.tuples(*[st.integers(1, 9)] * axes)
    shape = draw(st.tuples(*[st.integers(0, 12)] * axes))
    zarr_format = draw(st.sampled_from([2, 3]))
    source: dict[str, Any] = {"chunks": draw(lengths), "zarr_format": zarr_format}
    wanted: dict[str, Any] = {"chunks": draw(lengths), **draw(st.sampled_from(CODECS[zarr_format]))}
    if zarr_format == 3:
        for options in (source, wanted):
            times = draw(st.none() | st.tuples(*[st.integers(1, 3)] * axes))
            options["shards"] = (
                None if times is None else tuple(a * b for a, b in zip(options["chunks"], times, strict=True))
            )
    else:
        source["order"] = draw(st.sampled_from("CF"))
    source["fill_value"] = draw(st.sampled_from([0, 3]))
    return shape, source, wanted, draw(st.integers(8, 4000)), draw(st.booleans())


@settings(max_examples=20)
@given(rewritings(), st.sampled_from(["in place", "beside", "plain", "from plain"]))
def test_any_chunks_into_any_others(rewriting, where):
    shape, source, wanted, cells, sparse = rewriting
    data = np.random.default_rng(0).integers(1, 5, shape, dtype="i2")
    if sparse:
        data[tuple(slice(0, length // 2) for length in shape)] = source["fill_value"]
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/plain.zarr" if where == "from plain" else f"zarrvec://{folder}/data.zarr"
        array = zarr.create_array(url, shape=shape, dtype="i2", attributes={"a": 1}, **source)
        if data.size:
            array[...] = data
        destination = {"in place": None, "plain": f"{folder}/new.zarr"}.get(
            where, f"zarrvec://{folder}/new.zarr"
        )
        units = [np.prod(each.get("shards") or each["chunks"]) for each in (source, wanted)]
        memory = 2 * int(max(cells, 4 * max(units)))
        done = zarrvec.rechunk(array, destination, memory_bytes=memory, **wanted)
        assert np.array_equal(done.array[...], data)
        assert done.array.chunks == wanted["chunks"]
        assert done.array.shards == wanted.get("shards")
        before, after = array.metadata.to_dict(), done.array.metadata.to_dict()
        assert {name for name in before if before[name] != after[name]} <= {
            "chunks", "compressor", "filters", "chunk_grid", "codecs",
        }  # fmt: skip
        assert done.array.attrs.asdict() == {"a": 1}

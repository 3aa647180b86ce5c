"""Is a chunk that is written whole encoded as it stands, and any other merged as before?"""

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

import zarrvec
from zarrvec.faces.chain import bytes_of, merge_chunk

DATA = np.arange(80, dtype="f4").reshape(10, 8)


@pytest.fixture
def merged(monkeypatch):
    """Return whether each chunk that was merged is a view of what was written."""
    seen = []

    def watched(pipeline, old, value, info, drop_axes):
        chunk = merge_chunk(pipeline, old, value, info, drop_axes)
        if chunk is not None:
            seen.append(np.shares_memory(chunk.as_numpy_array(), value.as_numpy_array()))
        return chunk

    monkeypatch.setattr("zarrvec.faces.pipeline.merge_chunk", watched)
    return seen


def make(tmp_path, shape=DATA.shape, **options):
    return zarr.create_array(f"zarrvec://{tmp_path}/x.zarr", name="x", shape=shape, **options)


def test_whole_chunks_are_not_copied_and_the_last_one_is_filled_up(tmp_path, merged):
    array = make(tmp_path, chunks=(4, 8), dtype="f4")
    array[...] = DATA
    assert merged == [True, True, False]
    np.testing.assert_array_equal(array[...], DATA)


def test_parts_of_rows_are_chunks_too(tmp_path):
    array = make(tmp_path, chunks=(5, 4), dtype="f4")
    array[...] = DATA
    np.testing.assert_array_equal(array[...], DATA)


@pytest.mark.parametrize(
    "data", [DATA, np.frombuffer(DATA.tobytes(), "f4").reshape(8, 10).T[::-1]], ids=["rows", "columns"]
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("options", [{}, {"compressors": None}], ids=["compressed", "plain"])
def test_orders_of_format_2(tmp_path, data, order, options):
    array = make(tmp_path, chunks=(10, 8), dtype="f4", zarr_format=2, order=order, **options)
    array[...] = data
    np.testing.assert_array_equal(array[...], data)
    np.testing.assert_array_equal(zarr.open_array(array.store_path, mode="r")[...], data)


@pytest.mark.parametrize(
    "selection", [np.s_[2:7], np.s_[::2], np.s_[0, :], ([3, 0, 2, 1], slice(None))], ids=str
)
def test_other_selections(tmp_path, merged, selection):
    array = make(tmp_path, chunks=(4, 8), dtype="f4", fill_value=-1)
    expected = np.full(DATA.shape, -1, "f4")
    expected[selection] = DATA[selection]
    array.oindex[selection] = DATA[selection]
    np.testing.assert_array_equal(array[...], expected)
    assert sum(merged) <= 1


def test_an_axis_of_length_one(tmp_path, merged):
    array = make(tmp_path, shape=(3, 4, 8), chunks=(1, 4, 8), dtype="f4")
    array[1] = DATA[:4]
    np.testing.assert_array_equal(array[1], DATA[:4])
    assert not array[0].any()


def test_another_byte_order(tmp_path, merged):
    array = make(tmp_path, chunks=(5, 8), dtype="f4")
    array[...] = DATA.astype(">f4")
    np.testing.assert_array_equal(array[...], DATA)


def test_a_scalar_and_what_is_written_later(tmp_path, merged):
    array = make(tmp_path, chunks=(5, 8), dtype="f4")
    array[...] = 7
    assert (array[...] == 7).all()
    with zarrvec.transaction(array):
        mine = DATA.copy()
        array[...] = mine
        mine[...] = 0
    np.testing.assert_array_equal(array[...], DATA)


def test_bytes_that_a_codec_returned_are_not_copied():
    make_buffer = default_buffer_prototype().buffer
    held = b"some bytes"
    assert bytes_of(make_buffer.from_bytes(held)) is held
    assert bytes_of(make_buffer.from_bytes(held)[2:5]) == b"me "
    numbers = np.arange(5, dtype="u1")
    taken = bytes_of(make_buffer.from_array_like(numbers))
    numbers[...] = 0
    assert taken == bytes(range(5))

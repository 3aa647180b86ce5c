"""For any floats: the bound holds, what is read and written again is read the same, and the specification reads it too."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from zarrvec.codecs.quantizer import (
    BITS,
    DTYPES,
    NONFINITE,
    Form,
    NotStorableError,
    declared_error,
    decode,
    encode,
    error_bound,
)

_spec = importlib.util.spec_from_file_location(
    "independent_sq_reader", Path(__file__).parents[1] / "independent_sq_reader.py"
)
assert _spec is not None
assert _spec.loader is not None
independent = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(independent)

LARGEST = float(np.finfo(np.float32).max)


@st.composite
def vectors(draw, *, finite=True):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(st.integers(0, 4), st.integers(1, 9)))
    width = dtype.itemsize * 8
    if draw(st.booleans()):
        around = draw(st.floats(-1e4, 1e4, width=16))
        spread = draw(st.sampled_from([1e-3, 1, 1e3]))
        noise = draw(npst.arrays(np.float64, shape, elements=st.floats(-1, 1)))
        return (around + spread * noise).astype(dtype)
    largest = {16: 65504.0, 32: LARGEST, 64: LARGEST}[width]
    elements = st.floats(-largest, largest, width=width) if finite else st.floats(width=width)
    return draw(npst.arrays(dtype, shape, elements=elements))


@st.composite
def forms(draw, array):
    return Form(
        bits=draw(st.sampled_from(BITS)),
        width=array.shape[1],
        dtype=array.dtype,
        nonfinite=draw(st.sampled_from(NONFINITE)),
    )


@given(data=st.data())
@settings(max_examples=100)
def test_the_declared_error_holds(data):
    written = data.draw(vectors())
    form = data.draw(forms(written))
    records = encode(written, form)
    read = decode(records, form)
    assert read.dtype == written.dtype
    with np.errstate(over="ignore"):
        error = np.abs(read.astype(np.longdouble) - written.astype(np.longdouble))
    assert (error <= declared_error(records, written, form)).all()
    if len(written):
        assert (error <= error_bound(form.dtype, form.bits, form.nonfinite).of(written)).all()
    if form.dtype.itemsize < 8:
        least = written.min(axis=1, keepdims=True)
        assert (read[written == least] == written[written == least]).all()
        np.testing.assert_array_equal(decode(encode(read, form), form), read)


@given(data=st.data())
@settings(max_examples=60)
def test_any_floats_are_held_or_refused(data):
    written = data.draw(vectors(finite=False))
    form = data.draw(forms(written))
    large = np.isfinite(written) & (np.abs(written.astype("f8")) > LARGEST)
    refused = large if form.nonfinite == "preserve" else large | ~np.isfinite(written)
    if refused.any():
        with pytest.raises(NotStorableError) as caught:
            encode(written, form)
        assert refused[caught.value.row, caught.value.column]
        return
    records = encode(written, form)
    read = decode(records, form)
    special = ~np.isfinite(written)
    np.testing.assert_array_equal(read[special], written[special])
    assert np.isfinite(read[~special]).all()
    expected = independent.read_chunk(records.tobytes(), written.shape, form.dtype, form.bits, form.nonfinite)
    np.testing.assert_array_equal(read, expected, strict=True)

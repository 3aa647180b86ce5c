"""Do the golden chunks of ``zarrvec.sq`` read as they must, by zarrvec, by zarr and by a reader of the specification alone?"""

import asyncio
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import get_codec

from zarrvec.codecs.quantizer import BITS, HEAD, NONFINITE, Form, decode
from zarrvec.codecs.sq import ScalarQuantizer, decode_chunk
from zarrvec.errors import CodecError, CorruptError

ROOT = Path(__file__).parents[3]
CASES = json.loads((ROOT / "specs" / "vectors" / "sq.json").read_text())
SPEC = (ROOT / "specs" / "codecs" / "sq.md").read_text()
SCHEMA = json.loads((ROOT / "specs" / "codecs" / "sq.schema.json").read_text())

_spec = importlib.util.spec_from_file_location(
    "independent_sq_reader", ROOT / "tests" / "independent_sq_reader.py"
)
assert _spec is not None
assert _spec.loader is not None
independent = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(independent)


def array_of(case, name):
    data = np.frombuffer(bytes.fromhex(case[name]), np.dtype(case["dtype"]).newbyteorder("<"))
    return data.reshape(case["shape"]).astype(case["dtype"])


def make(case, store=None, **more):
    fill = case.get("fill_value")
    return zarr.create_array(
        zarr.storage.MemoryStore() if store is None else store,
        shape=case["shape"],
        chunks=case["shape"],
        dtype=case["dtype"],
        serializer={"name": "zarrvec.sq", "configuration": case["configuration"]},
        compressors=None,
        fill_value=0 if fill is None else float(fill),
        config={"write_empty_chunks": True},
        **more,
    )


def chunk_key(case):
    return "c/" + "/".join("0" for _ in case["shape"])


def stored_in(store, key):
    found = asyncio.run(store.get(key, zarr.core.buffer.default_buffer_prototype()))
    return found.to_bytes()


def put(store, key, data):
    buffer = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(data)
    asyncio.run(store.set(key, buffer))


@pytest.mark.parametrize("name", CASES["valid"])
def test_zarr_writes_and_reads_golden_chunks(name):
    case = CASES["valid"][name]
    array = make(case)
    array[...] = array_of(case, "written")
    assert stored_in(array.store, chunk_key(case)).hex() == case["stored"]
    np.testing.assert_array_equal(array[...], array_of(case, "read"), strict=True)


@pytest.mark.parametrize("name", CASES["valid"])
def test_the_specification_suffices_to_read_them(name):
    case = CASES["valid"][name]
    found = independent.read_chunk(
        bytes.fromhex(case["stored"]), case["shape"], case["dtype"], **case["configuration"]
    )
    np.testing.assert_array_equal(found, array_of(case, "read"), strict=True)


@pytest.mark.parametrize("name", CASES["valid"])
def test_filters_of_format_2_have_the_same_bytes(name):
    case = CASES["valid"][name]
    if case["fill_value"] is not None:
        return  # a filter doesn't know it
    dtype = np.dtype(case["dtype"])
    codec = get_codec(
        {"id": "zarrvec.sq", "dtype": dtype.str, "width": case["shape"][-1], **case["configuration"]}
    )
    assert codec.encode(array_of(case, "written")).tobytes().hex() == case["stored"]
    read = codec.decode(bytes.fromhex(case["stored"])).reshape(case["shape"])
    np.testing.assert_array_equal(read, array_of(case, "read"), strict=True)


@pytest.mark.parametrize("name", CASES["invalid"])
def test_must_fail_chunks_are_refused(name):
    case = CASES["invalid"][name]
    array = make(case)
    put(array.store, chunk_key(case), bytes.fromhex(case["stored"]))
    with pytest.raises(CorruptError, match=r"zarrvec\.sq.*Restore it or write it again"):
        array[...]
    with pytest.raises(independent.RefusedError):
        independent.read_chunk(
            bytes.fromhex(case["stored"]), case["shape"], case["dtype"], **case["configuration"]
        )


@pytest.mark.parametrize("name", CASES["refused_values"])
def test_values_that_are_refused(name):
    case = CASES["refused_values"][name]
    with pytest.raises(CodecError, match=r"zarrvec\.sq: at \(\d+, \d+\) of a chunk of shape"):
        make(case)[...] = array_of(case, "written")


@pytest.mark.parametrize("configuration", CASES["refused_configurations"], ids=str)
def test_configurations_that_are_refused(configuration):
    with pytest.raises(CodecError, match=r"zarrvec\.sq"):
        ScalarQuantizer.from_dict({"name": "zarrvec.sq", "configuration": configuration})


def test_examples_of_the_specification_are_golden():
    told = re.findall(r"^([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]+) +scale", SPEC, re.MULTILINE)
    records = ["".join(parts) for parts in told]
    assert "".join(records[:2]) == CASES["valid"]["bits_8"]["stored"]
    assert records[2] == CASES["valid"]["bits_4"]["stored"]


def test_schema_and_specification_name_what_the_code_takes():
    configuration = SCHEMA["oneOf"][0]["properties"]["configuration"]
    assert configuration["additionalProperties"] is False
    members = configuration["properties"]
    assert (tuple(members["bits"]["enum"]), tuple(members["nonfinite"]["enum"])) == (BITS, NONFINITE)
    default = ScalarQuantizer()
    assert {name: member["default"] for name, member in members.items()} == {
        "bits": default.bits,
        "nonfinite": default.nonfinite,
    }
    assert default.to_dict()["configuration"].keys() == members.keys()
    assert (HEAD.itemsize, HEAD.fields["scale"][1], HEAD.fields["offset"][1]) == (8, 0, 4)
    steps = [
        Form(bits=bits, width=1, dtype=np.dtype("f4"), nonfinite=nonfinite).steps
        for nonfinite in NONFINITE
        for bits in BITS
    ]
    assert steps == [255, 15, 252, 12]
    assert (
        "is 255 with 8 bits and 15 with 4; where values that aren't finite are preserved it is 252 and 12"
        in SPEC
    )


def test_any_bytes_are_read_or_refused():
    random = np.random.default_rng(0)
    case = CASES["valid"]["preserve_8"]
    for name, case in CASES["valid"].items():
        rows, width = int(np.prod(case["shape"][:-1])), case["shape"][-1]
        form = Form(**{"bits": 8, **case["configuration"], "width": width, "dtype": np.dtype(case["dtype"])})
        whole = np.frombuffer(bytes.fromhex(case["stored"]), np.uint8)
        for _ in range(200):
            data = whole.copy()
            data[random.integers(len(data), size=3)] = random.integers(256, size=3)
            try:
                found = decode_chunk(data, form, rows)
            except CorruptError:
                with pytest.raises(independent.RefusedError):
                    independent.read_chunk(
                        data.tobytes(), case["shape"], case["dtype"], **case["configuration"]
                    )
                continue
            expected = independent.read_chunk(
                data.tobytes(), case["shape"], case["dtype"], **case["configuration"]
            )
            np.testing.assert_array_equal(found.reshape(case["shape"]), expected, err_msg=name)


def test_decoding_nothing():
    form = Form(bits=8, width=3, dtype=np.dtype("f4"))
    assert decode(np.empty((0, form.record_bytes), np.uint8), form).shape == (0, 3)

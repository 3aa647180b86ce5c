"""What metadata documents say of arrays, whatever they hold."""

import json

import pytest

from zarrvec.engine.inspection import array_figures


def document(**changes):
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [10, 7],
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 7]}},
            "codecs": [{"name": "bytes"}],
            **changes,
        }
    ).encode()


def test_chunks_that_the_shape_has_room_for():
    figures = array_figures("a/b/zarr.json", document())
    assert figures is not None
    assert (figures.path, figures.zarr_format, figures.possible) == ("a/b", 3, 3)
    scalar = array_figures("zarr.json", document(shape=[], chunk_grid={"configuration": {"chunk_shape": []}}))
    assert scalar is not None
    assert (scalar.path, scalar.possible) == ("", 1)
    empty = array_figures("zarr.json", document(shape=[0, 7]))
    assert empty is not None
    assert empty.possible == 0


def test_shards_and_their_chunks():
    codecs = [{"name": "sharding_indexed", "configuration": {"chunk_shape": [2, 7]}}]
    figures = array_figures("zarr.json", document(codecs=codecs))
    assert figures is not None
    assert (figures.chunks, figures.inner_chunks) == ((4, 7), (2, 7))


def test_a_data_type_with_a_configuration_is_called_by_its_name():
    figures = array_figures(
        "zarr.json", document(data_type={"name": "numpy.datetime64", "configuration": {}})
    )
    assert figures is not None
    assert figures.data_type == "numpy.datetime64"


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"1", b"\xff", b"{}", document(node_type="group"), document(shape=None), document(codecs=3),
     document(shape=["x", 1]), document(shape=[1]), document(chunk_grid={})],
)  # fmt: skip
def test_what_is_no_array_is_none(data):
    assert array_figures("zarr.json", data) is None
    assert array_figures(".zarray", data) is None

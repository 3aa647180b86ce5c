import json
import math

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec import Access, Plan
from zarrvec.demo_data import load_episode, load_texts
from zarrvec.errors import OptionError, PlanError
from zarrvec.planner.targets import TARGETS

EMBEDDINGS = (1_000_000, 384)
FRAMES = (500, 200, 3, 224, 224)
AS_SALUS_READS = ["one frame", "window of 10", "by episode"]


def by_name(plan, name):
    return next(choice for choice in plan.choices if choice.name == name)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(FRAMES, "u1"), ((500, 200, 12), "f4"), ((500, 200, 4), "f4"), ((500, 200, 3), "i1")],
    ids=["images", "signals", "actions", "horizon_labels"],
)
def test_chunks_do_not_span_episodes_that_are_written_one_at_a_time(shape, dtype):
    plan = zarrvec.plan(shape, dtype, reads=AS_SALUS_READS, writes=["by episode"])
    assert plan.chunks[0] == 1
    assert plan.chunks[2:] == shape[2:]
    written = plan.figures.accesses[-1]
    assert written.rewrite_amplification < 1.1
    assert written.gets == 0
    by_default = by_name(plan, "zarr")
    if by_default.chunks[0] > 1:
        assert by_default.figures.accesses[-1].rewrite_amplification > 5
        assert by_default.figures.seconds > 1.5 * plan.figures.seconds
        assert "rewrite amplification" in plan.explain()


def test_embeddings_by_random_rows_and_by_full_scan():
    rows = zarrvec.plan(EMBEDDINGS, "f4", reads=["random rows of 500"])
    scan = zarrvec.plan(EMBEDDINGS, "f4", reads=["full scan"])
    both = zarrvec.plan(EMBEDDINGS, "f4", reads=["random rows of 500", "full scan"])
    assert {rows.chunks[1], scan.chunks[1], both.chunks[1]} == {384}
    assert rows.chunks[0] <= both.chunks[0] < scan.chunks[0]
    assert both.figures.accesses[0].seconds < 1.5 * scan.figures.accesses[0].seconds
    assert both.figures.accesses[1].seconds < 1.2 * scan.figures.seconds
    assert both.figures.accesses[0].seconds < 2.5 * rows.figures.seconds


def test_vectors_are_never_split():
    wide = zarrvec.plan((200_000, 4096), "f4", reads=["random rows of 10", "full scan"])
    assert wide.chunks[1] == 4096
    columns = zarrvec.plan((1000, 4096), "f8", reads=["whole column", "random rows of 10"], whole_axes=(-1,))
    assert columns.chunks[1] == 4096


def test_fixed_axes_and_limits():
    plan = zarrvec.plan(
        (100, 80, 60), "f8", reads=["full scan"], axes=["t", "y", "x"], fixed={"y": 7}, max_chunk_bytes=50_000
    )
    assert plan.chunks[1] == 7
    assert math.prod(plan.chunks) * 8 <= 50_000
    small = zarrvec.plan(EMBEDDINGS, "f4", reads=["rows of 1000"], memory_bytes=8 << 20)
    assert small.figures.memory_bytes <= 8 << 20
    few = zarrvec.plan(FRAMES, "u1", reads=["one frame"], max_objects=300)
    assert few.figures.objects <= 300
    assert few.pack_bytes > 16 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (0, 4)}, "axis 0 has 0 cells"),
        ({"shape": ()}, "without axes"),
        ({"shape": (5, 2.5)}, "axis 1 has 2.5 cells"),
        ({"dtype": object}, "no fixed size"),
        ({"dtype": "nonsense"}, "no numpy dtype"),
        ({"dtype": [("a", "f4")]}, "has fields"),
        ({"objective": "beauty"}, "objective='beauty'"),
        ({"target": "tape"}, "target='tape'"),
        ({"reads": "one frame"}, "expected a list of accesses"),
        ({"chunks": (5,)}, "expected 2 lengths"),
        ({"fixed": {3: 1}}, "there is no axis 3"),
        ({"fixed": {0: 101}}, "expected 1 to 100 cells"),
        ({"fixed": {1: 3}, "whole_axes": [-1]}, "is fixed to 3 of 8"),
        ({"whole_axes": ["width"]}, "no axis is called 'width'"),
        ({"whole_axes": [0, 1], "max_chunk_bytes": 100}, "the smallest chunk"),
        ({"memory_bytes": 10}, "memory_bytes=10"),
        ({"max_objects": 1, "writes": ["by row"]}, "max_objects=1"),
        ({"sample": np.zeros((3, 8), "f8")}, "sample: has the dtype float64"),
        ({"sample": np.zeros((3, 8, 1), "f4")}, "expected 2 axes"),
        ({"sample": np.zeros((3, 9), "f4")}, "no more than the array"),
        ({"sample": np.zeros((0, 8), "f4")}, "at least 1 cell"),
        ({"lossy": True}, "give sample="),
        ({"lossy": True, "dtype": "i4", "sample": np.zeros((3, 8), "i4")}, "lossy codecs are for floats"),
        ({"max_error": -1.0, "sample": np.zeros((3, 8), "f4")}, "max_error=-1.0"),
        ({"max_error": "1", "sample": np.zeros((3, 8), "f4")}, "max_error=1"),
        ({"reads": None}, "reads=None: expected a list"),
        ({"reads": Access("read", (1,))}, "expected a list of accesses"),
        ({"reads": ["random rows of 0"]}, "expected at least 1"),
        ({"reads": ["random rows of 10000000000"]}, "no more than 64 times as many"),
        ({"target": ["s3"]}, "target="),
        ({"chunks": 3}, "chunks=3: expected 2 lengths"),
        ({"fixed": [1, 2]}, "chunk lengths by axis"),
        ({"whole_axes": -1}, "whole_axes=-1: expected axes"),
        ({"whole_axes": "b", "axes": ["a", "b"]}, "whole_axes='b': expected axes"),
        ({"whole_axes": [0.5]}, "no axis 0.5"),
        ({"axes": ["a", "a"], "reads": ["by a"]}, "2 different names"),
        ({"max_chunk_bytes": "1MB"}, "max_chunk_bytes='1MB'"),
        ({"max_chunk_bytes": 0}, "max_chunk_bytes=0: expected a positive number"),
        ({"memory_bytes": float("nan")}, "memory_bytes=nan"),
        ({"max_objects": 0}, "max_objects=0"),
        ({"calls_per_month": -1}, "calls_per_month=-1"),
        ({"calls_per_month": float("nan")}, "calls_per_month=nan"),
        ({"machine": "fast"}, "machine='fast'"),
        ({"seed": None}, "seed=None"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_can_not_be_planned(options, message):
    asked = {"shape": (100, 8), "dtype": "f4", **options}
    if "max_objects" in options:
        asked["shape"] = (100, 80_000)
    with pytest.raises(PlanError, match=message):
        zarrvec.plan(asked.pop("shape"), asked.pop("dtype"), **asked)


def test_whole_numbers_of_numpy():
    shape, own, fixed = np.array([100, 8]), np.array([10, 8]), {0: np.int64(5)}
    reads = [Access("read", (np.int64(2), None), scattered=np.int32(3))]
    plan = zarrvec.plan(shape, "f4", reads=reads, chunks=own, fixed=fixed)
    assert plan == Plan.from_json(plan.to_json())
    assert plan.chunks[0] == 5


@pytest.mark.once
def test_frames_get_plain_zstd():
    frames = np.moveaxis(load_episode()["rgb"], -1, 1)[None]
    plan = zarrvec.plan(FRAMES, "u1", reads=["by episode"], writes=["by episode"], sample=frames)
    assert plan.codec.name.startswith("zstd")
    assert plan.codec.measured
    assert plan.codec.ratio > 5
    assert plan.figures.stored_bytes < math.prod(FRAMES) / 5
    assert plan.compressor == {"id": "zstd", "level": int(plan.codec.name[-1]), "checksum": False}


@pytest.mark.once
def test_lossy_codecs_only_where_they_are_allowed():
    vectors = load_texts()[0][:1000]
    asked = {"reads": ["full scan"], "sample": vectors, "objective": "cost"}
    lossless = zarrvec.plan(EMBEDDINGS, "f4", **asked)
    assert not lossless.codec.lossy
    lossy = zarrvec.plan(EMBEDDINGS, "f4", **asked, max_recall_loss=0.03)
    assert lossy.codec.lossy
    assert lossy.codec.ratio > 3
    assert lossy.figures.dollars_per_month < lossless.figures.dollars_per_month
    bounded = zarrvec.plan(EMBEDDINGS, "f4", **asked, max_error=1e-9)
    assert not bounded.codec.lossy
    assert any("comes back" in note for note in bounded.notes)


def test_a_sample_with_nan_leaves_out_codecs_that_refuse_it():
    vectors = load_texts()[0][:300].copy()
    vectors[7, 3] = np.nan
    plan = zarrvec.plan(EMBEDDINGS, "f4", reads=["full scan"], sample=vectors, lossy=True)
    assert not plan.codec.name.startswith("sq")
    assert any(note.startswith("codec sq-int8: left out, CodecError") for note in plan.notes)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_create(zarr_format):
    plan = zarrvec.plan((100, 8), "f4", reads=["full scan"], fixed={0: 10})
    group = zarr.open_group({}, mode="w", zarr_format=zarr_format)
    array = plan.create(group, "x", fill_value=7)
    assert (array.shape, array.chunks, array.dtype, array.metadata.zarr_format) == (
        (100, 8), (10, 8), np.dtype("f4"), zarr_format,
    )  # fmt: skip
    array[:50] = np.arange(400).reshape(50, 8)
    assert array[49, 7] == 399
    assert array[50, 0] == 7
    alone = plan.create({}, zarr_format=zarr_format)
    assert alone.chunks == (10, 8)
    assert alone.metadata.zarr_format == zarr_format
    assert "zstd" in str(alone.compressors).lower()


def test_create_on_a_url_sets_the_size_of_packs():
    plan = zarrvec.plan(FRAMES, "u1", reads=["one frame"], max_objects=300)
    array = plan.create("zarrvec::memory://planned")
    assert array.store.fs.repository.place.pack_bytes == plan.pack_bytes


def test_create_refuses_what_the_plan_decides():
    plan = zarrvec.plan((100, 8), "f4")
    with pytest.raises(PlanError, match="is decided by the plan"):
        plan.create({}, chunks=(1, 1))
    with pytest.raises(PlanError, match="an array in a group needs one"):
        plan.create(zarr.open_group({}, mode="w"))
    with pytest.raises(PlanError, match="zarr_format=2: the group has format 3"):
        plan.create(zarr.open_group({}, mode="w", zarr_format=3), "x", zarr_format=2)


def test_what_is_no_plan():
    for text in ("{}", "[]", "nonsense", '{"version": 99}', '{"version": 1}'):
        with pytest.raises(PlanError, match="plan: "):
            Plan.from_json(text)
    told = json.loads(zarrvec.plan((100, 8), "f4").to_json())
    for field, value in (("chunks", [0, 8]), ("chunks", [8]), ("chunks", "8"), ("pack_bytes", -1)):
        with pytest.raises(PlanError, match="is not what Plan"):
            Plan.from_json(json.dumps({**told, field: value}))


def test_explain_names_what_decides():
    plan = zarrvec.plan(FRAMES, "u1", reads=["one frame"], writes=["by episode"], chunks=(4, 50, 3, 224, 224))
    text = plan.explain()
    assert "read amplification" in text
    assert "rewrite amplification" in text
    assert [choice.name for choice in plan.choices] == ["plan", "zarr", "dask", "yours", "zarr, plain store"]
    assert all(f"\n{choice.name} " in text for choice in plan.choices)


def test_plot(tmp_path):
    plan = zarrvec.plan(FRAMES, "u1", reads=["one frame"], writes=["by episode"])
    figure = plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 5_000
    assert [panel.get_title() for panel in figure.axes] == ["read one frame, 50%", "write by episode, 50%"]


def test_plot_of_no_known_kind(tmp_path):
    with pytest.raises(OptionError, match=r"plan\.foo: expected a file name that ends in one of .*'png'"):
        zarrvec.plan((100, 8), "f4").plot(tmp_path / "plan.foo")


def test_plot_without_matplotlib(monkeypatch):
    plan = zarrvec.plan((100, 8), "f4")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'zarrvec\[plot\]'"):
        plan.plot()


def test_objectives_differ_as_they_should():
    asked = {
        "reads": [Access("read", (1, 1, ...), weight=1000)],
        "writes": ["by episode"],
        "calls_per_month": 1e7,
    }
    fast, cheap, balanced = (
        zarrvec.plan(FRAMES, "u1", objective=objective, **asked) for objective in ("time", "cost", "balanced")
    )
    assert fast.figures.seconds <= balanced.figures.seconds <= cheap.figures.seconds
    assert cheap.figures.dollars_per_month <= balanced.figures.dollars_per_month


def test_targets_have_prices_of_s3():
    s3, express = TARGETS["s3"], TARGETS["s3-express"]
    assert (s3.put_dollars * 1000, s3.get_dollars * 1000, s3.gigabyte_month_dollars) == (0.005, 0.0004, 0.023)
    assert express.gigabyte_month_dollars == 0.11
    local = zarrvec.plan((100, 8), "f4", target="local", objective="cost")
    assert local.figures.dollars_per_month == 0

"""What is traced comes back as advice, and following it keeps what is promised; on the command line, too."""

import json

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import zarrvec
from zarrvec.adapt.accesses import accesses_of
from zarrvec.cli.app import app
from zarrvec.errors import NotAStoreError, OptionError, PlanError
from zarrvec.layout.trace import ArrayTrace, Counts, Shape

SAMPLE = 1 << 16


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def root(tmp_path):
    group = zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="a")
    frames = group.create_array("episodes/frames", shape=(200, 64, 64), chunks=(200, 64, 64), dtype="u1")
    frames[:] = np.random.default_rng(0).integers(0, 256, frames.shape)
    zarrvec.trace(group, reset=True)
    return group


def read_frames(root):
    for number in range(0, 200, 5):
        _ = root["episodes/frames"][number]


def test_frames_that_are_read_one_by_one(root):
    read_frames(root)
    advice = zarrvec.replan(root, sample_bytes=SAMPLE)
    assert [each.path for each in advice] == ["episodes/frames"]
    frames = advice["episodes/frames"]
    assert frames.worth
    assert frames.operations == 40
    assert (frames.chunks, frames.plan.chunks[0]) == ((200, 64, 64), 1)
    assert frames.saved["seconds"] > 0
    assert frames.saved["bytes"] > 700_000
    assert frames.pays_after == pytest.approx(frames.rewrite.seconds / frames.saved["seconds"])
    assert frames.rewrite.reads_of_each_chunk == 1
    told = advice.explain()
    assert "change chunks (200, 64, 64) to (1, 64, 64)" in told
    assert "pays after" in told
    assert "new data alone can't have others" in told
    done = zarrvec.rechunk(root["episodes/frames"], plan=frames.plan)
    assert done.array.chunks == frames.plan.chunks
    read_frames(root)
    again = zarrvec.replan(root, sample_bytes=SAMPLE)["episodes/frames"]
    assert not again.worth
    assert "keep chunks" in again.explain()


def test_one_array_by_url_and_by_itself(root, tmp_path):
    read_frames(root)
    by_array = zarrvec.replan(root["episodes/frames"], sample_bytes=SAMPLE)
    by_url = zarrvec.replan(f"zarrvec://{tmp_path}/data.zarr/episodes", sample_bytes=SAMPLE)
    assert by_array["episodes/frames"].plan.chunks == by_url["episodes/frames"].plan.chunks
    with pytest.raises(KeyError):
        by_url["frames"]


def test_a_rechunking_is_not_traced(root):
    array = zarrvec.rechunk(root["episodes/frames"], chunks=(10, 64, 64)).array
    assert zarrvec.trace(array).operations == 0


def test_nothing_was_traced(root, tmp_path):
    with pytest.raises(OptionError, match="nothing was traced"):
        zarrvec.replan(root, sample_bytes=SAMPLE)
    read_frames(root)
    zarrvec.trace(root).save(tmp_path / "trace.json")
    with pytest.raises(OptionError, match="tells of no array there"):
        zarrvec.replan(root.create_group("other"), trace=tmp_path / "trace.json")


def test_a_plain_store(tmp_path):
    zarr.create_array(str(tmp_path / "plain.zarr"), data=np.zeros(4))
    with pytest.raises(NotAStoreError, match="holds plain Zarr"):
        zarrvec.replan(str(tmp_path / "plain.zarr"))


def test_what_can_not_be_planned_is_named(root):
    root.create_array("words", shape=(10,), chunks=(5,), dtype=str)[:] = np.array(["a"] * 10, dtype=object)
    _ = root["words"][0]
    root.create_array("gone", data=np.zeros(4))
    del root["gone"]
    read_frames(root)
    advice = zarrvec.replan(root, sample_bytes=SAMPLE)
    assert len(advice) == 1
    assert set(advice.skipped) == {"words", "gone"}
    assert advice.skipped["gone"] == "it is not there any more"
    assert "not planned" in str(advice)
    with pytest.raises(PlanError):
        zarrvec.replan(root["words"])
    for wrong in ({"objective": "joy"}, {"seed": -1}, {"target": "tape"}):
        with pytest.raises(PlanError, match=next(iter(wrong))):
            zarrvec.replan(root, **wrong)


def test_of_what_accesses_a_trace_tells():
    trace = ArrayTrace(
        shapes={
            Shape("read", (1, 8)): Counts(operations=5, boxes=5, chunks=5, aligned=5),
            Shape("read", (10, 8)): Counts(operations=4, boxes=4, chunks=8, aligned=1),
            Shape("read", (50, 8), (0,)): Counts(operations=3, boxes=3, chunks=90),
            Shape("read", (1, 1), (0, 1)): Counts(operations=2, boxes=14, chunks=14, aligned=2),
            Shape("write", (20, 8)): Counts(operations=1, boxes=1, chunks=2, aligned=1),
            Shape("read", (3,)): Counts(operations=7, boxes=7),
        },
        rest=Counts(operations=6),
    )
    found = accesses_of(trace, (100, 8))
    assert (found.operations, found.left_out) == (15, 13)
    assert [(a.shape, a.weight, a.start, a.scattered, a.axis) for a in found.reads] == [
        ((1, None), 5.0, "aligned", 0, 0),
        ((10, None), 4.0, "anywhere", 0, 0),
        ((1, None), 3.0, "anywhere", 50, 0),
        ((1, 1), 2.0, "aligned", 7, 0),
    ]
    assert [(a.shape, a.start) for a in found.writes] == [((20, None), "aligned")]


def test_on_the_command_line(root, tmp_path):
    store = tmp_path / "data.zarr"
    assert "--trace: none was given" in run("replan", store, code=2).output
    read_frames(root)
    zarrvec.trace(root).save(tmp_path / "trace.json")
    assert (
        "change chunks"
        in run("replan", store, "--trace", tmp_path / "trace.json", "--sample", "64KiB").stdout
    )
    told = run(
        "replan", store, "episodes", "--trace", tmp_path / "trace.json", "--sample", "64KiB", "--json"
    ).stdout
    (tmp_path / "advice.json").write_text(told)
    assert json.loads(told)["arrays"][0]["worth"] is True
    done = run("rechunk", store, "episodes/frames", "--plan", tmp_path / "advice.json", "--json")
    assert json.loads(done.stdout)["chunks"] == json.loads(told)["arrays"][0]["plan"]["chunks"]
    assert "has these chunks" in run("rechunk", store, "episodes/frames", "--chunks", "1,64,64").stdout
    out = run(
        "rechunk", store, "episodes/frames", "--chunks", "20,32,64", "--shards", "40,64,64", "-m", "why"
    ).stdout
    assert "chunks (1, 64, 64) are (20, 32, 64) in commit" in out
    assert zarrvec.history(root)[0].message == "why"
    run(
        "rechunk",
        store,
        "episodes/frames",
        "--to",
        tmp_path / "plain.zarr",
        "--chunks",
        "10,64,64",
        "--shards",
        "none",
    )
    plain = zarr.open_array(tmp_path / "plain.zarr", path="episodes/frames", mode="r")
    assert np.array_equal(plain[...], zarr.open_group(root.store, mode="r")["episodes/frames"][...])
    for arguments, message in [
        (["--chunks", "a,b"], "expected lengths"),
        (["--to-path", "x"], "needs --to"),
        (["--plan", tmp_path / "trace.json"], "plan"),
        ([], "nothing to change"),
    ]:
        assert message in run("rechunk", store, "episodes/frames", *arguments, code=2).output

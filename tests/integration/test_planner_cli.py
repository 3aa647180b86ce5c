"""``zarrvec plan``: of a shape, of an array that is there, and of what is wrong."""

import json

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import zarrvec
from zarrvec.cli.app import app
from zarrvec.demo_data import load_episode

pytestmark = pytest.mark.once


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["plan", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_of_a_shape():
    asked = ["--shape", "500,200,12", "--dtype", "f4", "--read", "one step=3", "--write", "by episode"]
    shown = run(*asked).stdout
    assert "rewrite amplification" in shown
    planned = zarrvec.Plan.from_json(run(*asked, "--json").stdout)
    assert planned == zarrvec.plan((500, 200, 12), "f4", reads=["one step=3"], writes=["by episode"])


def test_of_an_array(tmp_path):
    frames = load_episode()["rgb"][:20, ::4, ::4]
    zarr.create_array(
        tmp_path / "x.zarr", data=frames, chunks=(5, 56, 56, 3), dimension_names=["step", "y", "x", "rgb"]
    )
    made = zarrvec.Plan.from_json(
        run(tmp_path / "x.zarr", "--read", "one step", "--target", "local", "--json").stdout
    )
    assert made.shape == frames.shape
    assert made.codec.measured
    assert next(other.chunks for other in made.others if other.name == "yours") == (5, 56, 56, 3)
    assert not json.loads(run(tmp_path / "x.zarr", "--no-sample", "--json").stdout)["codec"]["measured"]


def test_with_a_sample_a_probe_and_a_picture(tmp_path):
    np.save(tmp_path / "sample.npy", np.zeros((4, 8), "f4"))
    made = zarrvec.Plan.from_json(
        run(
            "--shape", "1000x8", "--dtype", "f4", "--sample", tmp_path / "sample.npy", "--probe", tmp_path / "there",
            "--objective", "balanced", "--whole-axes", "-1", "--max-chunk", "4KiB", "--plot", tmp_path / "plan.svg", "--json",
        ).stdout
    )  # fmt: skip
    assert made.codec.measured
    assert made.target.name == str(tmp_path / "there")
    assert made.chunks[1] == 8
    assert made.figures.chunk_bytes <= 4096
    assert b"<svg" in (tmp_path / "plan.svg").read_bytes()


def test_what_is_wrong(tmp_path):
    assert "--shape and --dtype" in run(code=2).stderr
    assert "--objective" in run("--shape", "3", "--dtype", "f4", "--objective", "joy", code=2).stderr
    assert "whole numbers" in run("--shape", "3,a", "--dtype", "f4", code=2).stderr
    assert "unknown words" in run("--shape", "3,4", "--dtype", "f4", "--read", "backwards", code=2).stderr
    assert "no such file" in run(tmp_path / "absent.zarr", code=2).stderr

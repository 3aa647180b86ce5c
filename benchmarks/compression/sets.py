"""What is compressed: real embeddings, real frames, and a smooth field that a formula makes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from benchmarks import datasets

ROWS = 100_000
"""Of each set of embeddings, at most."""
_ROWS_READ = ("random rows of 100", "full scan")
_FRAMES_READ = ("one frame", "window of 10")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An array, how it is cut into chunks, and what is searched for in it."""

    told: str
    data: npt.NDArray[Any]
    chunks: tuple[int, ...]
    reads: tuple[str, ...]
    """For the planner."""
    queries: npt.NDArray[np.float32] | None = None
    """(q, d), for embeddings, which are compared by cosine."""


def minilm(cache: Path, shared: Path) -> Sample:
    found = datasets.minilm(cache, shared)
    return _embeddings("all-MiniLM-L6-v2 of WordNet glosses", found)


def glove(cache: Path, shared: Path) -> Sample:  # noqa: ARG001 - one signature for all
    return _embeddings("GloVe 6B, 100 dimensions", datasets.glove(cache))


def _embeddings(told: str, found: datasets.Dataset) -> Sample:
    rows = np.ascontiguousarray(found.base[:ROWS])
    chunk_rows = (1 << 20) // rows[0].nbytes
    return Sample(
        told=told, data=rows, chunks=(chunk_rows, rows.shape[1]), reads=_ROWS_READ, queries=found.queries
    )


def robot_frames(cache: Path, shared: Path) -> Sample:  # noqa: ARG001
    with np.load(shared / "data" / "robot" / "ep_02_drawer-open-v3.npz") as episode:
        frames = episode["rgb"][:100]
    return Sample(
        told="camera of a simulated robot (Meta-World)",
        data=frames,
        chunks=(10, *frames.shape[1:]),
        reads=_FRAMES_READ,
    )


def pusht(cache: Path, shared: Path) -> Sample:  # noqa: ARG001
    path = shared / "data" / "robot" / "pusht_keypoint_x356_y356.zarr"
    frames: Any = zarr.open_array(path / "data" / "img", mode="r")[:730]
    return Sample(
        told="Push-T, rendered frames", data=frames, chunks=(73, *frames.shape[1:]), reads=_FRAMES_READ
    )


def era_like(cache: Path, shared: Path) -> Sample:  # noqa: ARG001
    """Return 48 hours of a temperature on a grid of 1 degree, in kelvin.

    288 - 40 sin(lat)^2 + 6 cos(lat) sin(2 pi t / 24 + lon) + waves of 3 to 12 periods around the globe of amplitude 8 / k that
    move east by 15 / k degrees an hour + Gaussian noise of 0.05, rounded to 2^-9 kelvin as GRIB's packing rounds.
    """
    hours = np.arange(48)[:, None, None]
    lat, lon = np.deg2rad(np.arange(-90, 91))[None, :, None], np.deg2rad(np.arange(360))[None, None, :]
    field = 288 - 40 * np.sin(lat) ** 2 + 6 * np.cos(lat) * np.sin(2 * np.pi * hours / 24 + lon)
    for k in range(3, 13):
        field = field + 8 / k * np.cos(lat) ** 2 * np.sin(k * lon + k * lat - np.deg2rad(15) * hours + k * k)
    field = field + 0.05 * np.random.default_rng(0).standard_normal(field.shape)
    rounded = (np.round(field * 512) / 512).astype(np.float32)
    return Sample(
        told="a smooth field by a formula, like ERA5's temperature",
        data=rounded,
        chunks=(4, 181, 360),
        reads=("full scan",),
    )


SETS: dict[str, Callable[[Path, Path], Sample]] = {
    "minilm": minilm,
    "glove": glove,
    "robot": robot_frames,
    "pusht": pusht,
    "era_like": era_like,
}

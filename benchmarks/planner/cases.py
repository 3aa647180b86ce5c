"""Which arrays are measured, how are they read and written, and in which layouts?

Four arrays: frames of a robot, sentence embeddings, the Push-T replay buffer, and a smooth field of floats.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from zarrvec.planner.access import Access
from zarrvec.planner.words import Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An array, how it is used, and chunks to store it with."""

    name: str
    origin: str
    data: npt.NDArray[Any]
    reads: tuple[Asked, ...]
    write: Asked
    chunks: tuple[tuple[int, ...], ...]


def load(shared: Path, *, quick: bool) -> list[Case]:
    return [
        _frames(shared, quick=quick),
        _minilm(shared, quick=quick),
        _pusht(shared, quick=quick),
        _field(quick=quick),
    ]


def _frames(shared: Path, *, quick: bool) -> Case:
    episodes = []
    for path in sorted((shared / "data" / "robot").glob("ep_*.npz")):
        frames = np.moveaxis(np.load(path)["rgb"][:, ::2, ::2], -1, 1)
        episodes += [frames[:100], frames[100:]]
    data = np.ascontiguousarray(np.stack(episodes[: 2 if quick else 6]))
    count, steps = data.shape[:2]
    return Case(
        name="frames",
        origin="three MuJoCo episodes of 200 steps in halves, every second pixel",
        data=data,
        reads=("one frame", "window of 10", "by episode"),
        write="by episode",
        chunks=(
            (1, 1, 3, 112, 112), (1, 4, 3, 112, 112), (1, 10, 3, 112, 112), (1, 25, 3, 112, 112), (1, steps, 3, 112, 112),
            (count, 1, 3, 112, 112), (count, 10, 3, 112, 112), (1, 1, 3, 56, 56), (1, 10, 1, 112, 112),
            (1, 50, 3, 28, 28), (count, steps, 3, 14, 14),
        ),
    )  # fmt: skip


def _minilm(shared: Path, *, quick: bool) -> Case:
    data = np.load(shared / "data" / "text_minilm" / "base.npy")[: 4000 if quick else 32_000]
    rows = len(data)
    return Case(
        name="minilm",
        origin="all-MiniLM-L6-v2 embeddings of WordNet glosses",
        data=data,
        reads=("random rows of 100", Access("read", (1000, None), name="1000 rows"), "full scan"),
        write="rows of 2000",
        chunks=(
            (4, 384), (16, 384), (64, 384), (256, 384), (1024, 384), (4000, 384), (rows, 384), (1000, 48), (4000, 96),
            (256, 128), (rows, 8),
        ),
    )  # fmt: skip


def _pusht(shared: Path, *, quick: bool) -> Case:
    path = shared / "data" / "robot" / "pusht_keypoint_x356_y356.zarr"
    count = 400 if quick else 1600
    data = np.asarray(zarr.open_group(path, mode="r")["data/img"][:count])
    return Case(
        name="pusht",
        origin="images of a Push-T replay buffer",
        data=data.astype(np.uint8),
        reads=("random rows of 64", Access("read", (16, ...), name="window of 16"), "full scan"),
        write="rows of 200",
        chunks=(
            (1, 96, 96, 3), (5, 96, 96, 3), (20, 96, 96, 3), (73, 96, 96, 3), (200, 96, 96, 3), (count, 96, 96, 3),
            (count, 12, 12, 3), (50, 48, 48, 3), (10, 96, 96, 1), (20, 24, 24, 3), (100, 96, 48, 3),
        ),
    )  # fmt: skip


def _field(*, quick: bool) -> Case:
    """Make a field like a temperature: latitude, seasons, days, waves that travel, and noise of a fixed seed.

    ``T(t, y, x) = 288 - 40 (y/45 - 1)^2 + 8 sin(2 pi t/365) (y/45 - 1) + 3 sum_k sin(k (2 pi x/180 - 0.2 t) + k^2 y/30) / k
    + noise / 10``, rounded to 1/64, as reanalyses are packed.
    """
    days, lats, lons = (120 if quick else 730), 91, 180
    t = np.arange(days, dtype=np.float32)[:, None, None]
    y = np.arange(lats, dtype=np.float32)[None, :, None]
    x = np.arange(lons, dtype=np.float32)[None, None, :]
    data = 288 - 40 * (y / 45 - 1) ** 2 + 8 * np.sin(2 * np.pi * t / 365) * (y / 45 - 1)
    for k in (1, 2, 3, 5, 8):
        data = data + 3 / k * np.sin(k * (2 * np.pi * x / 180 - 0.2 * t) + k * k * y / 30)
    data += np.random.default_rng(8).normal(scale=0.1, size=data.shape)
    return Case(
        name="field",
        origin="a smooth field by a formula (benchmarks/planner/cases.py), in place of ERA5, which no package ships",
        data=(np.round(data * 64) / 64).astype(np.float32),
        reads=(
            Access("read", (1, ...), name="map"),
            Access("read", (None, 1, 1), name="series"),
            Access("read", (30, 20, 40), name="box"),
        ),
        write="rows of 73" if not quick else "rows of 30",
        chunks=(
            (1, 91, 180), (10, 91, 180), (73, 91, 180), (days, 10, 10), (days, 4, 45), (73, 23, 45), (24, 46, 90),
            (6, 30, 60), (100, 50, 50), (days, 91, 20), (10, 10, 20),
        ),
    )  # fmt: skip

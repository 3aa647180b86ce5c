"""Do xarray and dask write and read by URL, with threads too?"""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import dask.config
import numpy as np
import pytest
import xarray as xr
import zarr

import zarrvec
from zarrvec.testing.s3server import S3Bucket

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]


@dataclass(frozen=True)
class Place:
    url: str
    storage_options: dict[str, Any] | None = None


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(f"zarrvec://{tmp_path}/data.zarr")
    if request.param == "memory":
        return Place(f"zarrvec::memory://{uuid.uuid4().hex}")
    bucket: S3Bucket = request.getfixturevalue("s3_bucket")
    return Place(f"zarrvec::{bucket.url}", {"s3": bucket.storage_options})


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def zarr_format(request: pytest.FixtureRequest) -> Any:
    return request.param


def _dataset(times: int = 6, first: int = 0) -> xr.Dataset:
    values = np.arange(times * 12, dtype="f4").reshape(times, 3, 4) + first
    return xr.Dataset(
        {
            "temperature": (("time", "y", "x"), values, {"unit": "K"}),
            "label": (("time",), np.array([f"step {number + first}" for number in range(times)], dtype="U8")),
            "flag": ((), np.int8(3)),
        },
        coords={
            "time": np.datetime64("2026-01-01", "ns")
            + np.arange(first, first + times) * np.timedelta64(1, "D"),
            "x": np.linspace(0, 1, 4),
        },
        attrs={"title": "a dataset"},
    )


TIME = {"time": {"units": "days since 2026-01-01", "dtype": "i8"}}


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_dataset_comes_back(place: Place, zarr_format: Any, chunked: bool, consolidated: bool) -> None:
    dataset = _dataset()
    written = dataset.chunk({"time": 2}) if chunked else dataset
    written.to_zarr(
        place.url,
        storage_options=place.storage_options,
        zarr_format=zarr_format,
        consolidated=consolidated,
        encoding=TIME,
    )
    ways: tuple[Any, ...] = ({}, None)
    for chunks in ways:
        with xr.open_zarr(
            place.url, storage_options=place.storage_options, consolidated=consolidated, chunks=chunks
        ) as again:
            xr.testing.assert_identical(again.load(), dataset)
    with xr.open_dataset(
        place.url,
        engine="zarr",
        backend_kwargs={"storage_options": place.storage_options, "consolidated": consolidated},
    ) as again:
        assert float(again["temperature"].isel(time=slice(1, 3)).sum()) == float(
            dataset["temperature"][1:3].sum()
        )


def test_append_and_region(place: Place, zarr_format: Any) -> None:
    how: dict[str, Any] = {
        "storage_options": place.storage_options,
        "zarr_format": zarr_format,
        "consolidated": False,
    }
    _dataset().to_zarr(place.url, mode="w", encoding=TIME, **how)
    _dataset(4, first=6).to_zarr(place.url, append_dim="time", **how)
    expected = xr.concat(
        [_dataset(), _dataset(4, first=6)],
        dim="time",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="outer",
    )
    with xr.open_zarr(place.url, storage_options=place.storage_options, consolidated=False) as again:
        xr.testing.assert_equal(again.load(), expected)
    part = expected[["temperature"]].drop_vars(["time", "x"]).isel(time=slice(2, 9)) * 2
    for region in ({"time": slice(2, 9)},):
        part.to_zarr(place.url, region=region, **how)
    expected["temperature"][2:9] *= 2
    with xr.open_zarr(place.url, storage_options=place.storage_options, consolidated=False) as again:
        xr.testing.assert_equal(again.load(), expected)


def test_groups_of_datasets(place: Place, zarr_format: Any) -> None:
    how: dict[str, Any] = {"storage_options": place.storage_options, "consolidated": False}
    for name in ("a", "a/b"):
        _dataset().to_zarr(place.url, group=name, zarr_format=zarr_format, mode="a", encoding=TIME, **how)
    with xr.open_zarr(place.url, group="a/b", **how) as again:
        xr.testing.assert_identical(again.load(), _dataset())


def test_a_dataset_written_in_a_transaction_is_one_commit(tmp_path: Path, zarr_format: Any) -> None:
    url = f"zarrvec://{tmp_path}/data.zarr"
    root = zarr.open_group(url, mode="a", zarr_format=zarr_format)
    before = len(zarrvec.history(url))
    with zarrvec.transaction(root, message="dataset"):
        _dataset().to_zarr(url, mode="a", zarr_format=zarr_format, consolidated=False, encoding=TIME)
    assert len(zarrvec.history(url)) == before + 1
    with xr.open_zarr(url, consolidated=False) as again:
        xr.testing.assert_identical(again.load(), _dataset())


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_dask_array_comes_back(place: Place, zarr_format: Any, scheduler: str) -> None:
    data = np.random.default_rng(0).normal(size=(60, 40)).astype("f4")
    array = da.from_array(data, chunks=(7, 11))
    array = array.rechunk((10, 10))
    with dask.config.set(scheduler=scheduler):
        da.to_zarr(
            array,
            place.url,
            component="x",
            storage_options=place.storage_options,
            zarr_format=zarr_format,
        )
        again = da.from_zarr(place.url, component="x", storage_options=place.storage_options)
        assert again.chunks == array.chunks
        np.testing.assert_array_equal(again.compute(), data)
        np.testing.assert_allclose((again * 2).sum(axis=0).compute(), (data * 2).sum(axis=0), rtol=1e-4)


def test_dask_writes_a_region_from_threads(tmp_path: Path, zarr_format: Any) -> None:
    """Threads that write different parts of the same zarr chunks lose nothing."""
    url = f"zarrvec://{tmp_path}/data.zarr"
    target: Any = zarr.create_array(
        url, name="x", shape=(100, 10), chunks=(25, 10), dtype="i8", zarr_format=zarr_format
    )
    data = np.arange(1000).reshape(100, 10)
    source = da.from_array(data, chunks=(10, 5))
    with dask.config.set(scheduler="threads", num_workers=8):
        da.store(source, target, lock=False)
    np.testing.assert_array_equal(zarr.open_array(url, path="x")[:], data)

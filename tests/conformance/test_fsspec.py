"""Does the filesystem do all that fsspec expects of one? fsspec's own suites, on local files and in memory."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from fsspec.core import url_to_fs
from fsspec.tests.abstract import AbstractFixtures
from fsspec.tests.abstract.copy import AbstractCopyTests
from fsspec.tests.abstract.get import AbstractGetTests
from fsspec.tests.abstract.open import AbstractOpenTests
from fsspec.tests.abstract.pipe import AbstractPipeTests
from fsspec.tests.abstract.put import AbstractPutTests

import zarrvec

pytestmark = pytest.mark.once


class _FileSystemTests:
    @pytest.fixture
    def _opened(self, url: str) -> tuple[Any, str]:
        opened: tuple[Any, str] = url_to_fs(url)
        return opened

    @pytest.fixture
    def fs(self, _opened: tuple[Any, str]) -> Any:
        return _opened[0]

    @pytest.fixture
    def fs_path(self, _opened: tuple[Any, str]) -> str:
        return _opened[1]

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class _Local(_FileSystemTests, AbstractFixtures):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"zarrvec://{tmp_path}/data.zarr"


class _Memory(_FileSystemTests, AbstractFixtures):
    @pytest.fixture
    def url(self) -> str:
        return f"zarrvec::memory://{uuid.uuid4().hex}"


class _Inside(_FileSystemTests, AbstractFixtures):
    @pytest.fixture
    def url(self) -> str:
        return f"zarrvec://inner/group::memory://{uuid.uuid4().hex}"


class TestCopyLocal(_Local, AbstractCopyTests): ...


class TestCopyMemory(_Memory, AbstractCopyTests): ...


class TestCopyInside(_Inside, AbstractCopyTests): ...


class TestGetLocal(_Local, AbstractGetTests): ...


class TestGetMemory(_Memory, AbstractGetTests): ...


class TestPutLocal(_Local, AbstractPutTests): ...


class TestPutMemory(_Memory, AbstractPutTests): ...


class TestPipeLocal(_Local, AbstractPipeTests): ...


class TestPipeMemory(_Memory, AbstractPipeTests): ...


class TestOpenLocal(_Local, AbstractOpenTests): ...


class TestOpenMemory(_Memory, AbstractOpenTests): ...


class TestGetInside(_Inside, AbstractGetTests): ...


class TestPutInside(_Inside, AbstractPutTests): ...


def test_an_exclusive_file_that_another_made_meanwhile(tmp_path: Path) -> None:
    fs, path = url_to_fs(f"zarrvec://{tmp_path}/data.zarr")
    other, _ = url_to_fs(f"zarrvec://{tmp_path}/data.zarr")
    file = fs.open(f"{path}/x", "xb")
    file.write(b"mine")
    other.pipe_file(f"{path}/x", b"theirs")
    with pytest.raises(FileExistsError):
        file.close()
    assert fs.cat_file(f"{path}/x") == b"theirs"


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_file_is_one_commit_when_it_is_closed(tmp_path: Path, mode: str) -> None:
    fs, path = url_to_fs(f"zarrvec://{tmp_path}/data.zarr")
    fs.pipe_file(f"{path}/x", b"old")
    before = len(zarrvec.history(fs))
    with fs.open(f"{path}/x", mode, block_size=1000) as file:
        for _ in range(5):
            file.write(b"y" * 700)
        assert fs.cat_file(f"{path}/x") == b"old"
    assert fs.cat_file(f"{path}/x") == (b"old" if mode == "ab" else b"") + b"y" * 3500
    assert len(zarrvec.history(fs)) == before + 1


def test_names_below_the_top_and_ranges(tmp_path: Path) -> None:
    fs, path = url_to_fs(f"zarrvec://{tmp_path}/data.zarr")
    fs.pipe({f"{path}/a/b": b"0123456789", f"{path}/a/c/d": b"xyz", f"{path}/top": b""})
    assert fs.cat_file(f"{path}/a/b", start=2, end=5) == b"234"
    assert fs.cat_file(f"{path}/a/b", start=-3) == b"789"
    assert fs.cat_file(f"{path}/a/b", end=-3) == b"0123456"
    assert fs.cat_file(f"{path}/a/b", start=-5, end=-3) == b"56"
    assert fs.cat_ranges([f"{path}/a/b"] * 2, [1, -2], [3, None]) == [b"12", b"89"]
    assert fs.find(path) == [f"{path}/a/b", f"{path}/a/c/d", f"{path}/top"]
    assert fs.ls(f"{path}/a", detail=False) == [f"{path}/a/b", f"{path}/a/c"]
    assert fs.glob(f"{path}/**/d") == [f"{path}/a/c/d"]
    assert (fs.isdir(f"{path}/a/c"), fs.isfile(f"{path}/top"), fs.exists(f"{path}/no")) == (True, True, False)
    assert fs.du(path) == 13
    fs.mv(f"{path}/a", f"{path}/z", recursive=True)
    assert sorted(fs.find(path)) == [f"{path}/top", f"{path}/z/b", f"{path}/z/c/d"]
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{path}/a")
    with fs.open(f"{path}/z/b") as file:
        file.seek(4)
        assert file.read(3) == b"456"
    fs.rm(path, recursive=True)
    assert fs.find(path) == []

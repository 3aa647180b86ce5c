"""Does zarr do by URL what it does on a local directory, with the same keys and bytes, one commit an operation?

Each scenario runs twice, on a zarrvec URL and on zarr's local store (with zarr's own pipeline), and everything that it
returns, and every stored value, is compared.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr as typed_zarr
from numcodecs.blosc import Blosc
from numcodecs.delta import Delta
from zarr.core import codec_pipeline
from zarr.core.buffer import default_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import get_pipeline_class, register_pipeline
from zarr.storage import FsspecStore, LocalStore, MemoryStore

import zarrvec
from zarrvec.faces.config import PIPELINE, ZARR_DEFAULT
from zarrvec.testing.s3server import S3Bucket

zarr: Any = typed_zarr  # an index gives one of ten types there

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]


@dataclass(frozen=True)
class Place:
    """Where a scenario runs, as a user names it."""

    url: str
    storage_options: dict[str, Any] | None = None
    zarr_format: Any = 3
    pipeline: str = PIPELINE

    @property
    def where(self) -> dict[str, Any]:
        return {"store": self.url, "storage_options": self.storage_options}

    @property
    def new(self) -> dict[str, Any]:
        return {**self.where, "zarr_format": self.zarr_format}

    def native(self) -> Any:
        if self.url.startswith("zarrvec"):
            return zarrvec.open_store(self.url, self.storage_options)
        return LocalStore(self.url)


Scenario = Callable[[Place], Any]
SCENARIOS: dict[str, Scenario] = {}
ON_S3 = {"hierarchy", "save_and_load", "consolidated", "resize_append", "indexing", "sharded", "strings"}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


@scenario
def hierarchy(at: Place) -> Any:
    root = zarr.open(**at.new, mode="a")
    assert isinstance(root, zarr.Group)
    root.attrs["title"] = "a root"
    sub = root.create_group("sub", attributes={"n": 1})
    sub.create_array("x", data=np.arange(10), chunks=(3,), attributes={"unit": "m"})
    root.require_group("sub/deeper/deepest")
    root.create_array("sub/y", shape=(2, 2), dtype="f4", chunks=(1, 1))[:] = 7
    sub.attrs.update({"more": [1, 2], "nested": {"a": None}})
    del root["sub/deeper"]
    again = zarr.open_group(**at.where, mode="r")
    return {
        "members": sorted((name, type(item).__name__) for name, item in again.members(max_depth=None)),
        "attributes": [again.attrs.asdict(), again["sub"].attrs.asdict(), again["sub/x"].attrs.asdict()],
        "x": again["sub/x"][:],
        "y": again["sub/y"][...],
        "inside": "sub/deeper" in again,
        "by path": zarr.open_array(**at.where, path="sub/x", mode="r")[4],
    }


@scenario
def save_and_load(at: Place) -> Any:
    data = np.arange(24.0).reshape(4, 6)
    zarr.save_array(**at.new, path="saved", arr=data)
    zarr.save_array(**at.new, path="saved", arr=data + 1, mode="w")
    opened = zarr.open(**at.where, path="saved", mode="r")
    assert isinstance(opened, zarr.Array)
    return opened[:], zarr.load(at.native(), path="saved")


@scenario
def save_several(at: Place) -> Any:
    a, b = np.arange(5), np.linspace(0, 1, 7)
    zarr.save_group(at.url, a, zarr_format=at.zarr_format, storage_options=at.storage_options, second=b)
    return {name: zarr.load(at.url, path=name) for name in ("arr_0", "second")}


@scenario
def save_at_the_root(at: Place) -> Any:
    zarr.save(at.url, np.arange(7), zarr_format=at.zarr_format)
    return zarr.load(at.url)


@scenario
def consolidated(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="w")
    for name in "abc":
        root.create_group(name).create_array("x", data=np.full(4, ord(name)))
    zarr.consolidate_metadata(root.store)
    again = zarr.open_consolidated(**at.where)
    plain = zarr.open_group(**at.where, mode="r", use_consolidated=False)
    return {
        "consolidated": again.metadata.consolidated_metadata is not None,
        "members": sorted(again),
        "x": again["b/x"][:],
        "plain": plain["c/x"][:],
    }


@scenario
def resize_append(at: Place) -> Any:
    array = zarr.create_array(**at.new, shape=(5, 4), chunks=(2, 3), dtype="i4", fill_value=-1)
    array[:] = np.arange(20).reshape(5, 4)
    array.append(np.full((3, 4), 9, "i4"))
    array.resize((7, 6))
    first = array[:]
    array.resize((3, 2))
    array.resize((7, 6))
    array.append(np.full((7, 1), 5, "i4"), axis=1)
    return first, zarr.open_array(**at.where, mode="r")[:]


@scenario
def overwrite(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    root.create_array("x", data=np.arange(100), chunks=(7,))
    root.create_array("x", data=np.arange(3.0), overwrite=True)
    root.create_group("g").create_array("y", data=np.array([1]))
    root.create_array("g", data=np.array([5, 6]), overwrite=True)
    root.attrs.put({"only": 1})
    return sorted(root), root.attrs.asdict(), root["x"][:], root["g"][:]


def _fancy(array: Any) -> Any:
    shown: list[Any] = [array[...], array[3], array[2:9:3, ::2], array[-1, -2], array[()].shape]
    shown += [array.oindex[[1, 5, 5], 2:4], array.oindex[np.arange(array.shape[0]) % 5 == 0, [0, 6]]]
    shown += [array.vindex[[0, 3, 11], [1, 1, 6]], array.vindex[array[...] > 70]]
    shown += [array.blocks[1, 0:2], array.get_mask_selection(array[...] % 7 == 0)]
    shown += [array.get_coordinate_selection(([1, 1], [2, 3]))]
    return shown


@scenario
def indexing(at: Place) -> Any:
    array = zarr.create_array(**at.new, data=np.arange(84).reshape(12, 7), chunks=(5, 3), name="x")
    before = _fancy(array)
    array[1:11:2, 3] = 1000
    array[0] = np.arange(7) * -1
    array.oindex[[2, 4], [0, 6]] = [[1, 2], [3, 4]]
    array.oindex[:, [1]] = 17
    array.vindex[[5, 6, 7], [5, 6, 5]] = [90, 91, 92]
    array.set_mask_selection(array[...] == 17, 18)
    array.blocks[2, 1] = 5
    array[10:12, 5:7] = [[1, 1], [2, 2]]
    return before, _fancy(array), zarr.open_array(**at.where, path="x")[...]


@scenario
def strings(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    texts = np.array(["", "a", "ünïcödé", "x" * 900, "end"], dtype=object)
    varied = root.create_array("varied", shape=(5,), dtype="string", chunks=(2,))
    varied[:] = texts
    varied[1:3] = np.array(["changed", "too"], dtype=object)
    fixed = root.create_array("fixed", data=np.array(["ab", "cdefg", ""]), chunks=(2,))
    data = root.create_array("bytes", data=np.array([b"ab", b"\x01cde"]), chunks=(1,))
    again = zarr.open_group(**at.where, mode="r")
    return (
        [str(text) for text in again["varied"][:]],
        fixed[:],
        data[:],
        again["fixed"][1:],
        again["bytes"][1],
    )


@scenario
def raw_bytes_of_any_length(at: Place) -> Any:
    kind: Any = "variable_length_bytes" if at.zarr_format == 3 else zarr.dtype.VariableLengthBytes()
    array = zarr.create_array(**at.new, shape=(4,), dtype=kind, chunks=(3,))
    array[:3] = np.array([b"", b"\0\1", b"z" * 3000], dtype=object)
    return [bytes(value) for value in zarr.open_array(**at.where)[:]]


@scenario
def structured(at: Place) -> Any:
    kind = np.dtype([("id", "i4"), ("at", "f8"), ("name", "S6")])
    rows = np.array([(1, 0.5, b"one"), (2, 1.5, b"two"), (3, -1, b"three")], dtype=kind)
    array = zarr.create_array(**at.new, shape=(5,), dtype=kind, chunks=(2,))
    array[:3] = rows
    array[4:] = rows[:1]
    return zarr.open_array(**at.where)[:]


@scenario
def data_types(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    kinds = ["?", "i1", "u2", "<i8", ">i4", "f2", "<f8", "c8", "c16", "M8[ns]", "m8[s]"]
    for kind in kinds:
        data = np.arange(6).astype(kind)
        root.create_array(f"x{kinds.index(kind)}", data=data, chunks=(4,))
    return [root[f"x{number}"][1:5] for number in range(len(kinds))]


@scenario
def fill_values(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    shown = []
    for number, (kind, fill) in enumerate(
        [("f4", np.nan), ("f8", -0.0), ("i2", 7), ("?", True), ("f4", np.inf)]
    ):
        for keep in (True, False):
            name = f"x{number}{keep}"
            array = root.create_array(
                name,
                shape=(9,),
                chunks=(2,),
                dtype=kind,
                fill_value=fill,
                config={"write_empty_chunks": keep},
            )
            array[:5] = np.arange(5).astype(kind)
            array[2:4] = fill
            array[7:] = fill
            shown.append((array[:], array.nchunks_initialized))
            array[:] = fill
            shown.append((root[name][:], array.nchunks_initialized))
    return shown


@scenario
def no_dimensions(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    one = root.create_array("one", shape=(), dtype="f8")
    unset = one[()]
    one[...] = 42.5
    given = root.create_array("given", data=np.array(3))
    return unset, one[()], given[...], zarr.open_group(**at.where, mode="r")["one"][()]


@scenario
def no_elements(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    array = root.create_array("x", shape=(0, 3), chunks=(4, 3), dtype="u1")
    empty = array[:]
    array[:] = np.zeros((0, 3), "u1")
    array.append(np.ones((2, 3), "u1"))
    array[1:1] = 9
    return empty, array[:], array[0:0], array[:, 3:], array.oindex[1:1, [0]]


@scenario
def orders(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    data = np.asfortranarray(np.arange(30).reshape(5, 6))
    how: dict[str, Any] = {"order": "F"} if at.zarr_format == 2 else {"config": {"order": "F"}}
    array = root.create_array("f", shape=(5, 6), chunks=(2, 4), dtype=data.dtype, **how)
    array[:] = data
    array[1:4, 2:5] = np.asfortranarray(data[1:4, 2:5] * 2)
    c = root.create_array("c", data=data.T, chunks=(2, 4))
    return array[:], c[:], root["f"][::2, 1], bool(array[:].flags.f_contiguous)


@scenario
def codecs(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    data = np.arange(60).reshape(6, 10)
    root.create_array("none", data=data, chunks=(4, 4), compressors=None)
    if at.zarr_format == 2:
        root.create_array(
            "filtered",
            data=data,
            chunks=(4, 4),
            filters=[Delta("i8")],
            compressors=Blosc(),
        )
    else:
        root.create_array(
            "filtered",
            data=data,
            chunks=(4, 4),
            filters=[zarr.codecs.TransposeCodec(order=(1, 0))],
            compressors=[zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()],
        )
    root["filtered"][2:3] = 5
    root["none"][2:3] = 6
    return root["none"][:], root["filtered"][:]


@scenario
def separators(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    shown = []
    for separator in ("/", "."):
        name = "default" if at.zarr_format == 3 else "v2"
        array = root.create_array(
            f"x{ord(separator)}",
            data=np.arange(16).reshape(4, 4),
            chunks=(2, 3),
            chunk_key_encoding={"name": name, "separator": separator},
        )
        shown.append(array[1:, 1:])
    return shown


@scenario
def sharded(at: Place) -> Any:
    if at.zarr_format == 2:
        return None
    root = zarr.open_group(**at.new, mode="a")
    array = root.create_array("x", shape=(20, 12), shards=(8, 6), chunks=(2, 3), dtype="i4", fill_value=0)
    unset = array[5:9]
    array[:] = np.arange(240).reshape(20, 12)
    first = _fancy(array)[:2]
    array[3, 4] = -1
    array[6:10, 5:8] = -2
    array.oindex[[1, 17], [0, 11]] = -3
    array[8:16] = 0
    array.append(np.ones((3, 12), "i4"))
    array.resize((10, 12))
    return unset, first, array[:], zarr.open_array(**at.where, path="x")[2:9, ::5]


@scenario
def many_chunks(at: Place) -> Any:
    array = zarr.create_array(**at.new, data=np.arange(400), chunks=(5,), name="x")
    array[3:397] = np.arange(394) * 2
    return array[:], array[200]


@scenario
def other_keys(at: Place) -> Any:
    root = zarr.open_group(**at.new, mode="a")
    for name in ("with space", "ünïcödé", "a.b", "x-y_z", "0", "UPPER"):
        root.create_array(name, data=np.arange(3))[1] = 9
    return sorted((name, array[:].tolist()) for name, array in root.arrays())


async def _values(store: Any) -> dict[str, bytes]:
    prototype = default_buffer_prototype()
    return {key: (await store.get(key, prototype)).to_bytes() async for key in store.list()}


def values_of(place: Place) -> dict[str, bytes]:
    return asyncio.run(_values(place.native()))


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def zarr_format(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def local(tmp_path: Path, zarr_format: int) -> Place:
    return Place(f"zarrvec://{tmp_path}/packed.zarr", zarr_format=zarr_format)


@pytest.fixture
def plain(tmp_path: Path, zarr_format: int) -> Place:
    return Place(str(tmp_path / "plain.zarr"), zarr_format=zarr_format, pipeline=ZARR_DEFAULT)


@pytest.fixture
def on_s3(s3_bucket: S3Bucket, zarr_format: int) -> Place:
    return Place(f"zarrvec::{s3_bucket.url}", {"s3": s3_bucket.storage_options}, zarr_format)


def _compare(name: str, ours: Place, oracle: Place) -> None:
    expected = _run(name, oracle)
    np.testing.assert_equal(_run(name, ours), expected)
    assert values_of(ours) == values_of(oracle)


def _run(name: str, place: Place) -> Any:
    with zarr.config.set({"codec_pipeline.path": place.pipeline}):
        return SCENARIOS[name](place)


@pytest.mark.parametrize("name", SCENARIOS)
def test_local(name: str, local: Place, plain: Place) -> None:
    _compare(name, local, plain)


@pytest.mark.parametrize("name", sorted(ON_S3))
def test_s3(name: str, on_s3: Place, plain: Place) -> None:
    _compare(name, on_s3, plain)


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_stays_correct_with_zarrs_own_pipeline(name: str, local: Place, plain: Place) -> None:
    _compare(name, Place(local.url, zarr_format=local.zarr_format, pipeline=ZARR_DEFAULT), plain)


@pytest.mark.skipif(
    not hasattr(codec_pipeline, "FusedCodecPipeline"), reason="zarr has no fused pipeline yet"
)
@pytest.mark.parametrize("name", ["fill_values", "indexing", "resize_append", "sharded", "strings"])
@pytest.mark.parametrize("face", ["url", "native"])
def test_all_stays_correct_with_zarrs_fused_pipeline(
    name: str, face: str, local: Place, plain: Place
) -> None:
    fused = "zarr.core.codec_pipeline.FusedCodecPipeline"
    store = zarrvec.open_store(local.url)
    kind = partial(_Native, store=store) if face == "native" else Place
    _compare(name, kind(local.url, zarr_format=local.zarr_format, pipeline=fused), plain)


@pytest.mark.parametrize(
    "name", sorted(set(SCENARIOS) - {"save_several", "save_at_the_root"})
)  # these name a URL
def test_the_native_store_does_the_same(name: str, local: Place, plain: Place) -> None:
    store = zarrvec.open_store(local.url)
    _compare(name, _Native(local.url, zarr_format=local.zarr_format, store=store), plain)


@dataclass(frozen=True)
class _Native(Place):
    store: Any = None

    @property
    def where(self) -> dict[str, Any]:
        return {"store": self.store}


@pytest.mark.parametrize("name", sorted(ON_S3 | {"fill_values", "no_dimensions", "structured", "codecs"}))
def test_our_pipeline_leaves_other_stores_as_they_were(name: str, plain: Place, tmp_path: Path) -> None:
    other = Place(f"{tmp_path}/other.zarr", zarr_format=plain.zarr_format, pipeline=PIPELINE)
    _compare(name, other, plain)


def test_our_pipeline_gives_other_stores_batches_to_zarrs(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for verb in ("read", "write"):
        original = getattr(BatchedCodecPipeline, verb)

        async def spy(self: Any, batch: Any, *rest: Any, _original: Any = original, **more: Any) -> Any:
            batch = list(batch)
            batches.append(len(batch))
            return await _original(self, batch, *rest, **more)

        monkeypatch.setattr(BatchedCodecPipeline, verb, spy)
    with zarr.config.set({"codec_pipeline.path": PIPELINE}):
        array = zarr.create_array(MemoryStore(), shape=(10,), chunks=(2,), dtype="i4")
        array[:] = np.arange(10)
        assert array[:].tolist() == list(range(10))
    assert batches == [5, 5]


class UsersPipeline(BatchedCodecPipeline):
    """What a user may have configured."""


def test_a_pipeline_that_the_user_configured_stays(local: Place) -> None:
    register_pipeline(UsersPipeline)
    path = f"{UsersPipeline.__module__}.{UsersPipeline.__qualname__}"
    with zarr.config.set({"codec_pipeline.path": path}):
        array = zarr.create_array(**local.new, data=np.arange(100), chunks=(7,), name="x")
        zarrvec.open_store(local.url)
        assert zarr.config.get("codec_pipeline.path") == path
        assert get_pipeline_class() is UsersPipeline
        assert type(getattr(array, "async_array", array._async_array).codec_pipeline) is UsersPipeline
        array[3:50] = 1
    assert zarr.open_array(**local.where, path="x")[2:5].tolist() == [2, 1, 1]


def test_opening_a_store_configures_our_pipeline(local: Place) -> None:
    with zarr.config.set({"codec_pipeline.path": ZARR_DEFAULT}):
        zarr.open_group(**local.new, mode="a")
        assert zarr.config.get("codec_pipeline.path") == PIPELINE


# -- modes ------------------------------------------------------------------------------------------------------------


def _nothing(_: Place) -> None: ...


def _a_group(at: Place) -> None:
    zarr.open_group(**at.new, mode="w").create_array("x", data=np.arange(3))


def _an_array(at: Place) -> None:
    zarr.create_array(**at.new, data=np.arange(4), attributes={"old": True})


def _tried(call: Callable[[], Any]) -> tuple[Any, ...]:
    try:
        found = call()
    except Exception as error:
        return ("error", type(error))
    if isinstance(found, zarr.Group):
        return ("group", sorted(found), found.read_only)
    if isinstance(found, zarr.Array):
        return ("array", found[:].tolist(), found.attrs.asdict(), found.read_only)
    return (found,)


def _same_kind(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    if ours[0] == theirs[0] == "error":
        return issubclass(ours[1], theirs[1])
    return ours == theirs


@pytest.mark.parametrize("mode", ["r", "r+", "a", "w", "w-"])
@pytest.mark.parametrize("before", [_nothing, _a_group, _an_array], ids=["nothing", "group", "array"])
def test_modes_mean_what_they_mean_elsewhere(
    mode: Any, before: Callable[[Place], None], zarr_format: int, tmp_path: Path
) -> None:
    made: dict[str, Any] = {"shape": (2,), "dtype": "i4", "fill_value": 5}

    def write(found: Any) -> str:
        if isinstance(found, zarr.Group):
            found.create_group("new")
        else:
            found[0] = 99
        return "written"

    calls: dict[str, Callable[[Place], Any]] = {
        "open": lambda at: zarr.open(**at.new, mode=mode),
        "open an array": lambda at: zarr.open(**at.new, mode=mode, **made),
        "open_group": lambda at: zarr.open_group(**at.new, mode=mode),
        "open_array": lambda at: zarr.open_array(**at.new, mode=mode, **made),
        "open and write": lambda at: write(zarr.open(**at.new, mode=mode)),
        "open x": lambda at: zarr.open(**at.where, path="x", mode=mode),
    }
    for name, call in calls.items():
        ours = Place(f"zarrvec://{tmp_path}/{name}.zarr", zarr_format=zarr_format)
        theirs = Place(f"{tmp_path}/{name}.plain", zarr_format=zarr_format)
        results = []
        for place in (ours, theirs):
            before(place)
            results.append(_tried(partial(call, place)))
        assert _same_kind(*results), (name, results)
        assert values_of(ours) == values_of(theirs), name


# -- commits ----------------------------------------------------------------------------------------------------------


@dataclass
class Commits:
    """Counts the commits of a store."""

    place: Place

    def number(self) -> int:
        found = zarrvec.history(self.place.native(), limit=1)
        return found[0].number if found else 0

    @contextmanager
    def expect(self, count: int) -> Iterator[None]:
        before = self.number()
        yield
        assert self.number() - before == count


OPERATIONS: dict[str, Callable[[Any], None]] = {
    "all": lambda x: x.__setitem__(slice(None), np.arange(200).reshape(20, 10)),
    "a part": lambda x: x.__setitem__((slice(3, 17), slice(1, 9)), 5),
    "one element": lambda x: x.__setitem__((3, 3), 5),
    "rows": lambda x: x.oindex.__setitem__(([1, 2, 18], slice(None)), 7),
    "points": lambda x: x.vindex.__setitem__(([1, 11], [2, 9]), 7),
    "blocks": lambda x: x.blocks.__setitem__((0, slice(None)), 7),
    "a mask": lambda x: x.set_mask_selection(np.arange(200).reshape(20, 10) % 3 == 0, 1),
    "chunks become empty": lambda x: x.__setitem__(slice(0, 16), 0),
    "an attribute": lambda x: x.attrs.__setitem__("a", 1),
}


@pytest.mark.parametrize("shards", [None, (8, 10)], ids=["chunks", "shards"])
@pytest.mark.parametrize("face", ["url", "native"])
def test_one_operation_is_one_commit(shards: Any, face: str, local: Place) -> None:
    if shards and local.zarr_format == 2:
        pytest.skip("format 2 has no shards")
    where = local.where if face == "url" else {"store": local.native()}
    zarr.open_group(**where, zarr_format=local.zarr_format, mode="a")
    array = zarr.create_array(
        **where,
        name="x",
        shape=(20, 10),
        chunks=(4, 5),
        shards=shards,
        dtype="i4",
        zarr_format=local.zarr_format,
        config={"write_empty_chunks": False},
    )
    commits = Commits(local)
    with commits.expect(1):
        array[:] = 3
    for name, operation in OPERATIONS.items():
        with commits.expect(1):
            operation(array)
        assert zarr.open_array(**local.where, path="x", mode="r")[:].shape == (20, 10), name
    with commits.expect(2):  # the new shape, then the data; zarrvec.append makes it one
        array.append(np.ones((5, 10), "i4"))
    with commits.expect(1):
        zarrvec.append(array, np.ones((5, 10), "i4"))
    with commits.expect(1):
        del zarr.open_group(**where, mode="r+")["x"]


def test_one_operation_is_one_commit_on_s3(on_s3: Place) -> None:
    array = zarr.create_array(**on_s3.new, name="x", shape=(200,), chunks=(1,), dtype="i4")
    for change in (slice(None), slice(3, 150)):
        with Commits(on_s3).expect(1):
            array[change] = 4
    assert zarr.open_array(**on_s3.where, path="x")[[0, 5, 199]].tolist() == [4, 4, 4]


def test_saving_an_array_is_its_document_then_its_data(local: Place) -> None:
    zarr.open_group(**local.new, mode="a")
    with Commits(local).expect(2):
        zarr.save_array(**local.new, path="x", arr=np.arange(1000))


def test_creating_an_array_with_data_shares_commits(local: Place) -> None:
    """zarr assigns the chunks one by one then, ten at a time; a transaction makes it one commit."""
    root = zarr.open_group(**local.new, mode="a")
    before = Commits(local).number()
    root.create_array("x", data=np.arange(1000), chunks=(10,))
    assert Commits(local).number() - before <= 60
    with Commits(local).expect(1), zarrvec.transaction(root):
        root.create_array("y", data=np.arange(1000), chunks=(10,))
    assert root["y"][::100].tolist() == root["x"][::100].tolist()


def test_raw_sets_that_are_in_flight_together_share_commits(local: Place) -> None:
    with zarr.config.set({"codec_pipeline.path": ZARR_DEFAULT}):
        array = zarr.create_array(**local.new, name="x", shape=(100,), chunks=(1,), dtype="i4")
        before = Commits(local).number()
        array[:] = np.arange(100)
        assert Commits(local).number() - before <= 30
        assert array[:].tolist() == list(range(100))


# -- other ways in ----------------------------------------------------------------------------------------------------


def test_a_store_in_memory_by_url(zarr_format: Any) -> None:
    url = f"zarrvec::memory://{uuid.uuid4().hex}"
    root = zarr.open_group(url, mode="a", zarr_format=zarr_format)
    root.create_array("a/b", data=np.arange(5))
    assert zarr.open_array(url, path="a/b", mode="r")[:].tolist() == [0, 1, 2, 3, 4]
    assert zarr.open_array(f"zarrvec://a/b::{url.removeprefix('zarrvec::')}")[2] == 2


def test_a_url_may_go_on_into_the_store(local: Place) -> None:
    zarr.open_group(**local.new, mode="a").create_array("a/b", data=np.arange(5))
    assert zarr.open_array(f"{local.url}/a/b", mode="r")[3] == 3
    assert sorted(zarr.open_group(f"{local.url}/a", mode="r")) == ["b"]
    zarr.create_array(f"{local.url}/a/c", data=np.arange(2), zarr_format=local.zarr_format)
    assert sorted(zarr.open_group(local.url, mode="r")["a"]) == ["b", "c"]


def test_both_faces_see_one_store(local: Place) -> None:
    by_url = zarr.open_group(**local.new, mode="a")
    assert isinstance(by_url.store, FsspecStore)
    native = zarr.open_group(local.native(), mode="a")
    by_url.create_array("x", data=np.arange(4))
    native["x"][1] = 7
    assert by_url["x"][:].tolist() == [0, 7, 2, 3]
    native.attrs["a"] = 1
    assert zarr.open_group(local.url).attrs["a"] == 1

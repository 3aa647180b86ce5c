"""What is copied: an array as it is in one version, and what tells later whether it has changed?"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.adapt.target import Documents
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.reader import Request
from zarrvec.engine.version import View
from zarrvec.errors import OptionError
from zarrvec.faces.store import ZarrVecStore
from zarrvec.layout.blocking import Edges
from zarrvec.repository import Repository
from zarrvec.search.blocks import grid_of
from zarrvec.search.units import Generations, Units, pages_of

NAMES = ("zarr.json", ".zarray", ".zattrs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An array in one version of its store, or as it is now if that has no versions."""

    array: AnyArray
    documents: Documents
    edges: tuple[Edges, ...]
    """Of its units, along each axis."""
    generations: Generations | None
    """Of its units; None on other stores."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Units along each axis."""
        return tuple(len(cut) - 1 for cut in self.edges)


async def read_documents(repository: Repository, view: View, path: str) -> dict[str, tuple[bytes, int]]:
    """Return the metadata documents at a path, by name, with the numbers of the commits that wrote them."""
    keys = {name: key_below(path, name) for name in NAMES}
    found = await (await repository.engine()).read(view, [Request(key) for key in keys.values()])
    return {
        name: (bytes(value.data), value.generation)
        for name, value in zip(keys, found, strict=True)
        if value is not None
    }


def see_versioned(repository: Repository, view: View, path: str) -> Seen:
    """Look at an array in a version of a zarrvec store.

    Raises
    ------
    OptionError
        If there is none.
    """
    values = {name: data for name, (data, _) in run_sync(read_documents(repository, view, path)).items()}
    documents = _needed(values, f"{repository.place.name}/{path}")
    pinned = repository.pinned(view.version)
    pinned.trace = False
    array = array_of(StorePath(ZarrVecStore(pinned, read_only=True), path), documents)
    return Seen(
        array=array,
        documents=documents,
        edges=grid_of(array).units,
        generations=run_sync(generations_of(repository, view, array, path)),
    )


def see_plain(place: StorePath) -> Seen:
    """Look at an array on another store.

    Raises
    ------
    OptionError
        If there is none.
    """
    values = {}
    for name in NAMES:
        found = sync((place / name).get(prototype=default_buffer_prototype()))
        if found is not None:
            values[name] = found.to_bytes()
    documents = _needed(values, str(place))
    array = array_of(place, documents)
    return Seen(array=array, documents=documents, edges=grid_of(array).units, generations=None)


def array_of(place: StorePath, documents: Documents) -> AnyArray:
    """Open an array by its documents, which need not be stored."""
    described = dict(documents.main)
    if documents.zarr_format == 2:
        described["attributes"] = json.loads(documents.attributes or b"{}")
    return zarr.Array.from_dict(place, described)


async def generations_of(repository: Repository, view: View, array: AnyArray, path: str) -> Generations:
    """Return the commit that wrote each unit of an array last, (units,) uint64, 0 where nothing is stored."""
    units = Units.of(array, path)
    if not all(array.shape):
        return np.zeros(0, dtype=np.uint64)
    pages = await pages_of((await repository.engine()).reader, view, path)
    return units.generations(pages, view.changed())


def key_below(path: str, name: str) -> str:
    """Return a key below a path."""
    return f"{path}/{name}" if path else name


def _needed(values: Mapping[str, bytes], name: str) -> Documents:
    documents = Documents.of(values)
    if documents is None:
        raise OptionError(f"{name}: there is no Zarr array; expected one to rechunk.")
    if not documents.main["shape"]:
        raise OptionError(f"{name}: an array without axes has one chunk; there is nothing to rechunk.")
    return documents

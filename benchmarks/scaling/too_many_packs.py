"""What happens when the root of a store becomes longer than what is read?

It makes a store in memory whose chunks lie in so many packs, as as many commits would leave them, by one commit that folds all of
it into pages; then it opens the store anew and looks for a chunk. 2 million packs take some 4 GB of memory.
"""

import secrets
from typing import Any

import zarr

from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.changes import Changes
from zarrvec.errors import ZarrVecError
from zarrvec.faces.targets import repository_of
from zarrvec.layout.delta import Delta
from zarrvec.types import PACK_ID_BYTES, Entry, PackRef

URL = "zarrvec::memory://too-many-packs"


def counted(count: int) -> dict[str, Any]:
    """Return which commit succeeded, and what came of looking for a chunk then."""
    root = zarr.open_group(URL, mode="w")
    array = root.create_array("x", shape=(count, 6144), chunks=(1, 6144), dtype="u1")
    repository, _ = repository_of(array)

    async def fill() -> int:
        engine = await repository.engine()
        packs = [PackRef(secrets.token_bytes(PACK_ID_BYTES), 5_500) for _ in range(count)]
        entries = {f"x/c/{at}/0": Entry(0, 5_500, pack.pack, 8) for at, pack in enumerate(packs)}
        return (await engine.commit(Changes(delta=Delta(entries), packs=packs))).number

    async def look() -> bool:
        engine = await repository.engine()
        view = await repository.view()
        return (await engine.reader.locate(view, [f"x/c/{count // 2}/0"]))[0] is not None

    found: dict[str, Any] = {"packs": count, "commit": run_sync(fill()), "problem": ""}
    run_sync(engines.close_engines())
    try:
        found["is_found"] = run_sync(look())
    except ZarrVecError as error:
        found |= {"is_found": False, "problem": f"{type(error).__name__}: {error}"}
    return found

"""What happens when the root of a store becomes longer than what is read?

Run it from the root of a checkout, with a number of packs and some 4 GB of memory::

    python -m benchmarks.scaling.too_many_packs 2200000

It makes a store in memory whose chunks lie in so many packs, as as many commits would leave them, by one commit that folds all of
it into pages; then it opens the store anew and looks for a chunk. Up to some 2 million packs that works.
"""

import secrets
import sys

import zarr

from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.changes import Changes
from zarrvec.errors import ZarrVecError
from zarrvec.faces.targets import repository_of
from zarrvec.layout.delta import Delta
from zarrvec.types import PACK_ID_BYTES, Entry, PackRef

URL = "zarrvec::memory://too-many-packs"


def main() -> None:
    count = int(sys.argv[1])
    root = zarr.open_group(URL, mode="w")
    array = root.create_array("x", shape=(count, 6144), chunks=(1, 6144), dtype="u1")
    repository, _ = repository_of(array)

    async def fill() -> int:
        engine = await repository.engine()
        packs = [PackRef(secrets.token_bytes(PACK_ID_BYTES), 5_500) for _ in range(count)]
        entries = {f"x/c/{at}/0": Entry(0, 5_500, pack.pack, 8) for at, pack in enumerate(packs)}
        return (await engine.commit(Changes(delta=Delta(entries), packs=packs))).number

    print(f"{count:,} packs: commit {run_sync(fill())} succeeded")

    async def look() -> bool:
        engines._ENGINES.clear()
        engine = await repository.engine()
        view = await repository.view()
        return (await engine.reader.locate(view, [f"x/c/{count // 2}/0"]))[0] is not None

    run_sync(engines.close_engines())
    try:
        print("opened anew, a chunk is found:", run_sync(look()))
    except ZarrVecError as error:
        print("opened anew:", type(error).__name__, error)


if __name__ == "__main__":
    main()

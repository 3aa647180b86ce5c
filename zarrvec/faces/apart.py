"""How does a process write values that another one commits?

They go into packs, and where they are is told to the other, who names them in a commit of its own. Nobody sees them
before, and if there is no such commit they are garbage. Source: ``specs/decisions/0014-work-on-a-cluster.md``.
"""

from types import TracebackType

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.staging import HandedOver
from zarrvec.errors import TransactionError
from zarrvec.repository import Transaction


class Apart(Transaction):
    """A transaction that does not end in a commit: what was written in it is handed over.

    Examples
    --------
    >>> import pickle, tempfile, numpy as np, zarr, zarrvec
    >>> from zarrvec.faces.targets import repository_of
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"zarrvec://{folder}/data.zarr", shape=(4,), chunks=(2,), dtype="i4")
    ...     with Apart(repository_of(array)[0]) as apart:
    ...         array[:2] = 7
    ...     handed = pickle.dumps(apart.handed)
    ...     before = array[:].tolist()
    ...     with zarrvec.transaction(array) as last:
    ...         last.staging.take_over(pickle.loads(handed))
    ...     before, array[:].tolist()
    ([0, 0, 0, 0], [7, 7, 0, 0])
    """

    _handed: HandedOver | None = None

    @property
    def handed(self) -> HandedOver:
        """What was written, once the ``with`` has ended."""
        if self._handed is None:
            raise TransactionError(f"{self._repository.place.name}: nothing is handed over before the end.")
        return self._handed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        staging = self.staging
        try:
            if kind is None:
                self._handed = run_sync(staging.hand_over())
        finally:
            self._leave()
            run_sync(staging.discard())

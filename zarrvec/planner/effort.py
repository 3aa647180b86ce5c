"""What does the client do for a call: how many chunks, bytes, cells, each by what it costs of a machine's time?

Pure. Source: ``specs/planner.md``, section "Time".
"""

from dataclasses import dataclass

from zarrvec.faces.pipeline import _PARALLEL_BYTES
from zarrvec.planner.layout import Layout, Work
from zarrvec.planner.targets import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Work of the client's processor."""

    codec_seconds: float
    """Of codecs, by all threads side by side."""
    amounts: dict[str, float]
    """How much there is of what a field of `Machine` is the price of; what threads share is divided among them."""

    def seconds(self, machine: Machine) -> float:
        """Return how long it takes."""
        return self.codec_seconds + sum(
            amount * float(getattr(machine, name)) for name, amount in self.amounts.items()
        )


def reading(work: Work, layout: Layout, speedup: float) -> Effort:
    """Return what decoding takes: of a read, all of it; of a write, of the chunks that it changes in part.

    Examples
    --------
    >>> layout = Layout(shape=(10, 1000), itemsize=8, chunks=(1, 1000))
    >>> effort = reading(Work(chunks_decoded=2, wanted_bytes=16000, runs=2), layout, 2)
    >>> effort.amounts["chunk_read_seconds"], effort.amounts["stored_read_seconds"]
    (2, 16000)
    """
    chunks = work.chunks_decoded
    stored = chunks * layout.value_bytes
    changes = work.chunks_encoded > 0
    side_by_side = _threads(work.chunks_encoded * layout.chunk_bytes if changes else stored, chunks, speedup)
    amounts = {"chunk_read_seconds": chunks, "stored_read_seconds": stored}
    if not changes:
        amounts |= {
            "line_pick_seconds": work.picked_lines,
            "chunk_pick_seconds": chunks if work.picked_cells else 0,
            "place_seconds": work.wanted_bytes / side_by_side,
            "run_seconds": work.runs / side_by_side,
            "pick_seconds": work.picked_cells / side_by_side,
        }
    return Effort(
        codec_seconds=chunks * layout.chunk_bytes * layout.coding.decode_seconds / side_by_side,
        amounts=amounts,
    )


def writing(work: Work, layout: Layout, speedup: float) -> Effort:
    """Return what merging and encoding takes; nothing of a read.

    Examples
    --------
    >>> layout = Layout(shape=(10, 1000), itemsize=8, chunks=(1, 1000))
    >>> writing(Work(chunks_encoded=2, wanted_bytes=16000, runs=2), layout, 2).amounts["merge_seconds"]
    16000.0
    """
    chunks = work.chunks_encoded
    decoded = chunks * layout.chunk_bytes
    side_by_side = _threads(decoded, chunks, speedup)
    return Effort(
        codec_seconds=decoded * layout.coding.encode_seconds / side_by_side,
        amounts={
            "commit_seconds": 1,
            "chunk_write_seconds": chunks,
            "stored_write_seconds": chunks * layout.value_bytes,
            "merge_seconds": decoded / side_by_side,
            "run_seconds": work.runs / side_by_side,
        }
        if chunks
        else {},
    )


def _threads(size: float, chunks: float, speedup: float) -> float:
    """Return by how much threads shorten the work, if the engine uses them."""
    return 1.0 if size < _PARALLEL_BYTES else min(speedup, max(1.0, chunks))

"""What does an index say of itself? The *head*, a JSON object among the attributes of its group.

Pure. Source: ``specs/vector-index.md``, section "Head". It is a metadata document of the store, so who opens the array has
it already, and two that change the index at one time conflict over it.
"""

import math
import re
import secrets
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeAlias

import msgspec
import numpy as np

from zarrvec.errors import CorruptError, FormatVersionError
from zarrvec.faces.renumbering import INDEX_ATTRIBUTE
from zarrvec.search.list_table import MAX_PACKED_BYTES
from zarrvec.search.metrics import Metric
from zarrvec.search.records import Layout

ATTRIBUTE: Final = INDEX_ATTRIBUTE
FORMAT: Final = 1
MAX_COUNT: Final = 2**48
"""No count of a head is larger, nor is a product of the lengths of axes."""


Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-z]{1,64}$")]
"""It becomes a part of keys, so it must not lead out of the group."""
Crc: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


_ID: Final = re.compile("[0-9a-f]{24}")
_OLD_ID: Final = re.compile("[0-9a-f]{16}")
"""As names were before they told when they were made."""


class StoredAs(NamedTuple):
    """How an array is stored, as the head of its index says it."""

    unit: tuple[int, ...] | None
    """Lengths of a unit; None if there are units of many sizes."""
    fill_value: float | str | None
    """What the array holds where nothing is stored; ``"NaN"``, ``"Infinity"`` or ``"-Infinity"`` where JSON has no number."""


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    """How the lists of an index lie in groups, whose table of lists is too long to be read whole."""

    count: Positive
    """Number of groups."""
    crc32c: Crc
    """Checksum of the array of them."""
    seen: float
    """Lists that a search looks at for each one that it probes."""
    chunk_rows: Positive
    """Rows in a chunk of the table of lists; in an inner chunk if it has shards."""
    shard_rows: Positive | None
    """Rows in a shard; None if it has none."""


def new_id() -> str:
    """Return a name for a part of an index or a revision that nobody has used; it tells when it was made."""
    return f"{int(time.time()):08x}{secrets.token_hex(8)}"


def age_of(name: str) -> float | None:
    """Return how many seconds ago a name of `new_id` was made; None if it isn't one.

    Examples
    --------
    >>> 0 <= age_of(new_id()) < 60, age_of("0123456789abcdef") == math.inf, age_of("coverage")
    (True, True, None)
    """
    if _OLD_ID.fullmatch(name):
        return math.inf
    return time.time() - int(name[:8], 16) if _ID.fullmatch(name) else None


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A set of posting lists that were written together. The first one has all lists and the centroids."""

    id: Name
    """Name of its group."""
    entries: Count
    """Entries in it."""
    rows: Count
    """Rows of the source in it; no more than the entries, since some rows stand in two lists."""
    spread: float
    """Mean squared distance of its rows to their nearest centroids; drift shows in that of later segments."""
    lists: Positive
    """Rows of its table of lists."""
    lists_crc32c: Crc
    """Checksum of that table."""
    lists_packed: bool = False
    """Whether it is compressed, see `zarrvec.search.list_table.pack_rows`; of the first segment, if that has no groups."""
    origin_crc32c: Crc | None = None
    """Checksum of the origin; None if there is none."""
    groups: Groups | None = None
    """Of the first segment, if its table of lists is read by groups."""
    chunk_rows: Positive
    """Entries in a chunk of the array of entries; in an inner chunk if it has shards."""
    shard_rows: Positive | None
    """Entries in a shard; None if it has none."""


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """The array of deleted ids. Each has a name of its own, so that a head always names the array it was written for."""

    id: Name
    """Name of the array."""
    count: Positive
    """Ids in it."""
    crc32c: Crc
    """Checksum of them."""
    leading: tuple[Count, ...]
    """Shape of the source without its last axis by which they count rows; some may lie beyond the first axis."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Recall@k against lists probed."""

    k: Positive
    """Hits."""
    recall: tuple[Share, ...]
    """For each nprobe of the calibration: share of the k nearest that stand in the lists probed."""
    error: tuple[Share, ...]
    """Standard error of each, over the queries that were measured."""
    loss: dict[str, Share]
    """What the codes lose besides, by their bits; nothing if hits are ranked again by their rows."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How recall depends on the lists that are probed, as measured when the index was built."""

    source: Annotated[str, msgspec.Meta(pattern="^(rows|queries)$")]
    """``"rows"`` of the array, left out of their own answers, or the caller's ``"queries"``."""
    queries: Count
    """How many were measured."""
    nprobe: tuple[Positive, ...]
    """Lists probed, ascending; the last is all of them."""
    curves: tuple[Curve, ...]
    """By ascending k."""
    far: float
    """Squared distance to the nearest centroid beyond which a query is unlike those measured."""

    def nprobe_for(self, recall: float, k: float, *, bits: int | None) -> int | None:
        """Return how many lists to probe for a recall; None if the codes lose too much, whatever is probed.

        Parameters
        ----------
        recall
            Share asked for; what was measured reaches it with a standard error to spare.
        k
            Hits; between those measured, the curve of the next one holds, beyond them that of the last; see `loss_at` too.
        bits
            Of the codes that the ranking rests on; None if it rests on the rows themselves.

        Examples
        --------
        >>> def curve(k, *recall):
        ...     return Curve(k=k, recall=recall, error=(0.0,) * 3, loss={"8": 0.01})
        >>> curves = curve(10, 0.5, 0.9, 1.0), curve(100, 0.4, 0.8, 1.0)
        >>> known = Calibration(source="rows", queries=100, nprobe=(1, 4, 16), curves=curves, far=1.0)
        >>> [known.nprobe_for(recall, 10, bits=8) for recall in (0.85, 0.89, 0.99, 0.999)]
        [4, 4, 16, None]
        >>> known.nprobe_for(0.999, 10, bits=None), known.nprobe_for(0.8, 200, bits=None)
        (16, 4)
        """
        curve = next((curve for curve in self.curves if curve.k >= k), self.curves[-1])
        wanted = recall + (self.loss_at(k, bits=bits) if bits is not None else 0.0)
        if wanted > 1.0:
            return None
        sure = np.maximum.accumulate(np.subtract(curve.recall, curve.error))
        sure[-1] = 1.0  # all lists
        place = int(np.searchsorted(sure, wanted))
        if place == 0:
            return self.nprobe[0]
        low, high = self.nprobe[place - 1], self.nprobe[place]
        part = (wanted - sure[place - 1]) / (sure[place] - sure[place - 1])
        return int(np.ceil(low + part * (high - low)))

    def loss_at(self, k: float, *, bits: int) -> float:
        """Return what codes of so many bits lose of k hits: between two k that were measured, as much as at the worse of them.

        Codes tell far from near better than near from nearest, so less is mostly lost of more hits. Where rows come in
        clusters nearly nothing is lost of as many hits as a cluster has rows.

        Examples
        --------
        >>> curves = [Curve(k=k, recall=(1.0,), error=(0.0,), loss={"4": loss}) for k, loss in ((1, 0.4), (10, 0.2), (100, 0.1))]
        >>> known = Calibration(source="rows", queries=100, nprobe=(1,), curves=tuple(curves), far=1.0)
        >>> [known.loss_at(k, bits=4) for k in (1, 2, 10, 20, 200)]
        [0.4, 0.4, 0.2, 0.2, 0.1]
        """
        above = next((curve for curve in self.curves if curve.k >= k), self.curves[-1])
        below = [curve for curve in self.curves if curve.k <= k]
        return max(curve.loss[str(bits)] for curve in (above, *below[-1:]))


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """All that must be known of an index before its parts are read."""

    format: Literal[1] = FORMAT
    """Version of the format."""
    revision: Name
    """Changes with every change of the index."""
    metric: Metric
    """What the lists are ordered by."""
    width: Positive
    """Dimensions d of a vector."""
    dtype: str
    """Of the source, when the index was built."""
    id_bytes: int
    """4 or 8."""
    leading: tuple[Count, ...]
    """The covered rows: shape of the source without its last axis."""
    unit: tuple[Count, ...] | None = None
    """Lengths of a unit of the source; None if it has units of many sizes. Generations tell nothing if it changed."""
    fill_value: float | str | None = None
    """What the source holds where nothing is stored; generations tell nothing if it changed."""
    grid: tuple[Count, ...] = ()
    """Units of the source along each axis, which the array ``coverage`` counts in; empty on a store without versions."""
    segments: tuple[Segment, ...]
    """The first has the centroids."""
    cut: bool = False
    """Whether lists may hold rows behind `leading`, as they were when the array was longer; None must be added then."""
    deleted_ids: Deleted | None = None
    """Ids that are not to be found; None if there are none."""
    calibration: Calibration
    """Recall against lists probed."""
    trained_spread: float
    """Mean squared distance to their nearest centroid of the rows that these were trained for."""
    second_from: float
    """Gain from which on a row is put into a second list."""
    options: dict[str, Any]
    """What `build_index` was asked for, to build again by."""
    built: dict[str, Any]
    """When, by which version, from how many rows, at which cost; to be read by people."""

    @property
    def stored_as(self) -> StoredAs:
        """How the source was stored."""
        return StoredAs(self.unit, self.fill_value)

    @property
    def layout(self) -> Layout:
        """How lists are laid out."""
        return Layout(width=self.width, id_bytes=self.id_bytes, has_norms=self.metric == "l2")

    @property
    def nlist(self) -> int:
        """Number of lists."""
        return self.segments[0].lists

    @property
    def deleted(self) -> int:
        """Number of deleted ids."""
        return 0 if self.deleted_ids is None else self.deleted_ids.count

    @property
    def deleted_leading(self) -> tuple[int, ...]:
        """Shape without the last axis by which deleted ids count rows."""
        return () if self.deleted_ids is None else self.deleted_ids.leading

    @property
    def units(self) -> int:
        """Units of the source that ``coverage`` counts."""
        return int(np.prod(self.grid, dtype=np.int64)) if self.grid else 0

    @property
    def rows(self) -> int:
        """Rows that were indexed."""
        return sum(segment.rows for segment in self.segments)

    @property
    def covered(self) -> int:
        """Rows of the leading shape, the ones that can't be found included."""
        return int(np.prod(self.leading, dtype=np.int64))

    @property
    def parts(self) -> set[str]:
        """Names of the parts that belong to it, but for `coverage` and `queries`, which are the same for all heads."""
        deleted = set() if self.deleted_ids is None else {self.deleted_ids.id}
        return deleted.union(segment.id for segment in self.segments)

    def encode(self) -> dict[str, Any]:
        """Return it as the value of the attribute."""
        encoded: dict[str, Any] = msgspec.to_builtins(self)
        return encoded

    @classmethod
    def decode(cls, value: object, *, name: str) -> Self:
        """Read the value of the attribute.

        Raises
        ------
        FormatVersionError
            If a newer zarrvec wrote it.
        CorruptError
            If it is no head.
        """
        version = value.get("format") if isinstance(value, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise FormatVersionError(
                f"{name}: format {version} of the vector index; this zarrvec reads up to {FORMAT}. Install a newer one."
            )
        try:
            head = msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise CorruptError(
                f"{name}: the attribute {ATTRIBUTE!r} is no head of an index ({error}); drop_index() and build it again."
            ) from error
        contradiction = next(_contradictions(head), None)
        if contradiction is not None:
            raise CorruptError(
                f"{name}: the attribute {ATTRIBUTE!r} contradicts itself, {contradiction}; drop_index() and build it again."
            )
        return head


_MET: Final = msgspec.json.Decoder(Head)
"""What msgspec notes of a class when it meets it takes ten times as long as a head: so this is at import, not in a search."""


def _contradictions(head: Head) -> Iterator[str]:
    if not head.segments:
        yield "it names no segment"
        return
    if len({segment.id for segment in head.segments}) < len(head.segments):
        yield "two segments have one name"
    for segment in head.segments:
        if segment.lists > head.nlist or (
            segment is not head.segments[0] and segment.lists > segment.entries
        ):
            yield f"segment {segment.id} has {segment.lists} lists"
        if segment.rows > segment.entries:
            yield f"segment {segment.id} has {segment.rows} rows, but {segment.entries} entries"
        if segment.lists_packed and not _may_be_packed(head, segment):
            yield f"the table of {segment.lists} lists of segment {segment.id} is compressed"
        if segment.shard_rows is not None and segment.shard_rows % segment.chunk_rows:
            yield f"segment {segment.id} has shards of {segment.shard_rows} entries, and chunks of {segment.chunk_rows}"
    yield from _wrong_groups(head.segments)
    if math.prod(head.leading) > MAX_COUNT or math.prod(head.grid) > MAX_COUNT:
        yield f"an array of {head.leading} rows in {head.grid} units"
    if any((segment.origin_crc32c is not None) != (head.metric == "l2") for segment in head.segments[:1]):
        yield f"the first segment has an origin of checksum {head.segments[0].origin_crc32c} under {head.metric}"
    if not head.leading or (head.grid and len(head.grid) != len(head.leading) + 1):
        yield f"rows have {len(head.leading)} axes, units {len(head.grid)}"
    told = head.deleted_ids
    if told is not None and not 1 <= math.prod(told.leading[1:]) <= MAX_COUNT:
        yield f"{told.count} rows of {told.leading} are deleted"
    if head.id_bytes not in (4, 8):
        yield f"ids have {head.id_bytes} bytes"
    if head.options.get("bits") not in (4, 8):
        yield f"options.bits is {head.options.get('bits')!r}"
    yield from _wrong_curves(head.calibration)
    numbers = [head.trained_spread, head.second_from, *(segment.spread for segment in head.segments)]
    if not all(map(math.isfinite, [*numbers, head.calibration.far])):
        yield f"not all of {numbers} and {head.calibration.far} are finite"


def _may_be_packed(head: Head, segment: Segment) -> bool:
    length = segment.lists * head.layout.list_bytes
    return segment is head.segments[0] and segment.groups is None and length <= MAX_PACKED_BYTES


def _wrong_groups(segments: tuple[Segment, ...]) -> Iterator[str]:
    for segment in segments:
        groups = segment.groups
        if groups is None:
            continue
        if segment is not segments[0] or groups.count > segment.lists:
            yield f"segment {segment.id} of {segment.lists} lists has {groups.count} groups"
        if not 1 <= groups.seen < math.inf:
            yield f"{groups.seen} lists are seen for each one probed"
        if groups.shard_rows is not None and groups.shard_rows % groups.chunk_rows:
            yield f"the table of lists has shards of {groups.shard_rows} rows, and chunks of {groups.chunk_rows}"


def _wrong_curves(calibration: Calibration) -> Iterator[str]:
    nprobe = calibration.nprobe
    if not nprobe or any(one >= other for one, other in pairwise(nprobe)):
        yield "nprobe of the calibration doesn't ascend"
    if not calibration.curves or any(one.k >= other.k for one, other in pairwise(calibration.curves)):
        yield "the curves of the calibration don't ascend by k"
    for curve in calibration.curves:
        if not len(curve.recall) == len(curve.error) == len(nprobe):
            yield f"the curve of k={curve.k} has other points than nprobe"
        if not {"4", "8"} <= curve.loss.keys():
            yield f"the curve of k={curve.k} has no loss for 4 and 8 bits"

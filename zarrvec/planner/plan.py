"""What does a plan say, how is it carried out, and how is it kept?"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec

from zarrvec.errors import PlanError
from zarrvec.layout.packing import PACK_BYTES
from zarrvec.planner.explain import explained, human_bytes
from zarrvec.planner.plot import plotted
from zarrvec.planner.records import Choice, Codec, Figures, PlannedAccess
from zarrvec.planner.targets import Target

if TYPE_CHECKING:
    import zarr

JSON_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A layout for an array: chunks, codecs, packs, what it is predicted to cost, and what others would.

    Made by `zarrvec.plan`.
    """

    shape: tuple[int, ...]
    dtype: str
    """As numpy writes it, such as ``"<f4"``."""
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    """None: zarrvec stores pack chunks."""
    codec: Codec
    pack_bytes: int
    """For the store's option ``pack_bytes``."""
    figures: Figures
    others: tuple[Choice, ...]
    """What zarr, dask and the user would choose."""
    accesses: tuple[PlannedAccess, ...]
    target: Target
    objective: str
    calls_per_month: float
    seed: int
    notes: tuple[str, ...] = ()
    """What a reader of the plan should know: limits that decided, codecs that were left out."""

    @property
    def compressor(self) -> dict[str, Any] | None:
        """The compressor of format 2, as numcodecs configures it."""
        return self.codec.compressor_2

    @property
    def filters(self) -> tuple[dict[str, Any], ...]:
        """The filters of format 2, as numcodecs configures them."""
        return self.codec.filters_2

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The plan's own layout, called ``"plan"``, and the others."""
        planned = Choice(
            name="plan",
            chunks=self.chunks,
            shards=self.shards,
            store="zarrvec",
            pack_bytes=self.pack_bytes,
            codec=self.codec,
            figures=self.figures,
        )
        return planned, *self.others

    def create(self, store: Any, name: str | None = None, **options: Any) -> "zarr.Array[Any]":
        """Create the array.

        The size of packs is an option of whoever writes (``storage_options["zarrvec"]["pack_bytes"]``), not of an array. Given a
        URL of a zarrvec store, what is written through the array returned goes into packs of `pack_bytes`, unless
        ``storage_options`` say otherwise. A group or a store is open already, and writes packs as it was opened; so does
        whoever opens the array later.

        Parameters
        ----------
        store
            A group, or a store or URL as ``zarr.create_array`` takes them.
        name
            Path of the array inside it.
        options
            Further ones of ``zarr.create_array``, such as ``zarr_format``, ``fill_value``, ``dimension_names``,
            ``attributes`` or ``overwrite``. Those that a plan decides can't be among them.

        Raises
        ------
        PlanError
            If an option is decided by the plan, or format 2 can't have the codec.

        Examples
        --------
        >>> import zarr, zarrvec
        >>> group = zarr.open_group("zarrvec://planned.zarr", mode="w")
        >>> planned = zarrvec.plan((1000, 384), "f4", reads=["random rows of 10"])
        >>> planned.create(group, "embeddings").chunks == planned.chunks
        True
        """
        import zarr

        decided = {
            "shape",
            "dtype",
            "chunks",
            "shards",
            "filters",
            "serializer",
            "compressors",
            "compressor",
            "data",
        }
        if taken := sorted(decided & options.keys()):
            raise PlanError(f"{taken[0]}={options[taken[0]]!r}: is decided by the plan; leave it out.")
        in_group = isinstance(store, zarr.Group)
        if in_group and options.get("zarr_format") not in (None, store.metadata.zarr_format):
            raise PlanError(
                f"zarr_format={options['zarr_format']}: the group has format {store.metadata.zarr_format}, and so have arrays "
                "in it; leave it out."
            )
        zarr_format: Literal[2, 3] = options.get("zarr_format") or (
            store.metadata.zarr_format if in_group else 3
        )
        common = {
            "shape": self.shape,
            "dtype": self.dtype,
            "chunks": self.chunks,
            **self.codec.options(zarr_format),
            **options,
        }
        if in_group:
            if name is None:
                raise PlanError("name=None: an array in a group needs one.")
            common.pop("zarr_format", None)
            return store.create_array(name, **common)  # type: ignore[no-any-return]
        common["zarr_format"] = zarr_format
        if isinstance(store, str) and store.startswith("zarrvec") and self.pack_bytes != PACK_BYTES:
            given = dict(common.get("storage_options") or {})
            given["zarrvec"] = {"pack_bytes": self.pack_bytes, **given.get("zarrvec", {})}
            common["storage_options"] = given
        return zarr.create_array(store, name=name, **common)

    def explain(self) -> str:
        """Return a table of what decided: the plan beside other choices, access by access."""
        return explained(self.choices, self._heading(), self.notes)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw one picture: where the time of each access goes, for the plan and the other choices.

        Parameters
        ----------
        path
            Where to save it, by the suffix as PNG, SVG or PDF; None to save nothing.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        OptionError
            If matplotlib isn't installed, or saves no pictures of that suffix.
        """
        return plotted(self.choices, f"{self._heading()[0]}\n{self._heading()[1]}", path)

    def to_json(self) -> str:
        """Return the plan as JSON.

        Examples
        --------
        >>> import zarrvec
        >>> planned = zarrvec.plan((100, 8), "f4", reads=["full scan"])
        >>> zarrvec.Plan.from_json(planned.to_json()) == planned
        True
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return msgspec.json.encode({"version": JSON_VERSION, **fields}).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the plan that `to_json` wrote.

        Raises
        ------
        PlanError
            If it is none.
        """
        try:
            fields = msgspec.json.decode(text)
            version = fields.pop("version", None)
            if version != JSON_VERSION:
                raise PlanError(f"plan: version {version!r}; this zarrvec reads version {JSON_VERSION}.")
            plan = msgspec.convert(fields, cls)
        except (msgspec.MsgspecError, AttributeError, TypeError) as error:
            raise PlanError(f"plan: is not what Plan.to_json writes ({error}).") from error
        if len(plan.chunks) != len(plan.shape) or min(plan.chunks, default=0) < 1 or plan.pack_bytes < 1024:
            raise PlanError(
                f"plan: is not what Plan.to_json writes (chunks {plan.chunks} of an array {plan.shape}, packs of "
                f"{plan.pack_bytes} bytes)."
            )
        return plan

    def _heading(self) -> tuple[str, str]:
        shape = "x".join(map(str, self.shape))
        measured = f"{self.codec.ratio:.2f}x" if self.codec.measured else "not measured"
        return (
            f"array ({shape}) {self.dtype} on {self.target.name}, objective {self.objective}",
            f"plan: chunks {self.chunks}, codec {self.codec.name} ({measured}), packs of {human_bytes(self.pack_bytes)}",
        )

    def __str__(self) -> str:
        return self.explain()

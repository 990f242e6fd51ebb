"""The shape of a model, in plain values: what training decides and serving must know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from models.family import FAMILIES, Family

CACHE_DTYPES = ("float32", "float16", "int8")
#: What a model is for, and the graphs of those that only read another's records.
STAGES: dict[str, tuple[str, ...]] = {
    "rank": (),
    "retrieval": ("retrieve",),
    "prerank": ("prerank",),
}

#: Upper edges, in seconds, of the time-gap buckets: 0, 1, 2, 4, … about 34 years.
#: Integers, because a logarithm rounds differently in every runtime at powers of two.
TIME_GAP_EDGES_S: tuple[int, ...] = (0, *(2**power for power in range(31)))


class SpecError(ValueError):
    """A spec that no model can be built from."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Spec:
    """The shape of one model.

    `depth` counts target-attention layers (0, the items' biases alone, is for comparisons),
    `window` the events each of them sees, `width` the numbers in one vector, and `heads` divides
    `width`. `tasks` names the heads in order; the first one ranks. A record, in the families that
    cache, holds `depth - 1` vectors: depth 0 is a table look-up and nothing attends to the last
    layer's output.

    The `stage` of most models is to rank. One for retrieval or pre-ranking keeps the shape of the
    ranking model whose records it reads, except for `window`: how many of them it reads.
    """

    family: str = "marm"
    depth: int = 4
    window: int = 100
    width: int = 64
    heads: int = 4
    tasks: tuple[str, ...] = ("like",)
    time_gap: bool = True
    embedding: str = "full"
    cache_dtype: str = "float32"
    fallback_rows: int = 16
    stage: str = "rank"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise SpecError(f"family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        if self.cache_dtype not in CACHE_DTYPES:
            known = ", ".join(CACHE_DTYPES)
            raise SpecError(f"cache dtype must be one of {known}, not {self.cache_dtype!r}")
        if self.embedding != "full":
            raise SpecError(f"embedding must be full, not {self.embedding!r}")
        for name, least, most in (
            ("depth", 0, 32),
            ("window", 1, 10_000),
            ("width", 1, 4_096),
            ("heads", 1, 256),
            ("fallback_rows", 1, 1_000_000),
        ):
            value = getattr(self, name)
            if type(value) is not int:
                raise SpecError(f"{name} must be a whole number, not {value!r}")
            if not least <= value <= most:
                raise SpecError(f"{name} must be between {least} and {most}, not {value}")
        if self.depth > (most := self.kind.most_depth):
            raise SpecError(f"depth must be at most {most} in the family {self.family}")
        if self.width % self.heads:
            raise SpecError(f"width {self.width} is not divisible by {self.heads} heads")
        if self.stage not in STAGES:
            raise SpecError(f"stage must be one of {', '.join(STAGES)}, not {self.stage!r}")
        if self.stage != "rank" and not (self.kind.is_cached and self.kind.is_recursive):
            raise SpecError(
                f"the family {self.family} caches no records that {self.stage} could read"
            )
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise SpecError("tasks must be one or more different names")

    @property
    def kind(self) -> Family:
        return FAMILIES[self.family]

    @property
    def graphs(self) -> tuple[str, ...]:
        """What its bundle must hold."""
        return STAGES[self.stage] or self.kind.graphs

    @property
    def layers(self) -> int:
        """Attention layers of its own; pre-ranking has one, over the deepest records."""
        return min(1, self.depth) if self.stage == "prerank" else self.depth

    @property
    def hidden_depths(self) -> int:
        """Layers whose outputs for the events of history other layers attend to."""
        return max(0, self.depth - 1) if self.kind.is_recursive else 0

    @property
    def cached_depths(self) -> int:
        return self.hidden_depths if self.kind.is_cached else 0

    @property
    def encodes(self) -> bool:
        """Whether a request makes records from events, because none are cached."""
        return self.hidden_depths > self.cached_depths

    @property
    def receptive_field(self) -> int:
        """Newest events that can move a score: `window` more for every layer that adds to it."""
        return (self.depth if self.kind.is_recursive else 1) * self.window

    @property
    def reads(self) -> int:
        """Newest events that a request reads: all that move a score, or one window of records."""
        is_window = self.cached_depths or self.stage != "rank"
        return self.window if is_window else self.receptive_field

    @property
    def reach(self) -> int:
        """Newest events whose records are worth keeping.

        A request reads one window. The second one lets late feedback and late events be
        recomputed from cached records instead of from the whole receptive field.
        """
        return 2 * self.window

    @property
    def least_keep(self) -> int:
        """Events a store must keep per user so that every record can be rebuilt exactly."""
        return self.receptive_field + (self.window if self.kind.is_cached else 0)

    @property
    def row(self) -> np.dtype[np.void]:
        """One record as the cache holds it, a structured dtype; its fields are graph inputs."""
        if not self.cached_depths:
            return np.dtype([])
        vectors = (self.cached_depths, self.width)
        if self.cache_dtype == "int8":
            fields: list[Any] = [("records", "i1", vectors), ("scales", "<f2", vectors[:1])]
            return np.dtype(fields)
        code = {"float32": "<f4", "float16": "<f2"}[self.cache_dtype]
        return np.dtype([("records", code, vectors)])

    def to_dict(self) -> dict[str, Any]:
        values = {**dataclasses.asdict(self), "tasks": list(self.tasks)}
        if self.stage == "rank":  # as it was before there were others
            del values["stage"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The spec that a manifest describes; an unknown or missing field is a `SpecError`."""
        values = {"stage": "rank", **values}
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) != known:
            odd = ", ".join(sorted(set(values) ^ known))
            raise SpecError(f"spec fields do not fit this version of Marmot: {odd}")
        return cls(**{**values, "tasks": tuple(values["tasks"])})

"""The shape of a model, in plain values: what training decides and serving must know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from models.embeddings.sizes import (
    BANDED,
    BANDS,
    DEFAULT_COMPRESSION,
    EMBEDDINGS,
    mixed_widths,
    nested_widths,
)
from models.family import FAMILIES, Family

CACHE_DTYPES = ("float32", "float16", "int8")
SEARCHES = ("category", "attention")
#: What a model is for, and the graphs of those that only read another's records.
STAGES: dict[str, tuple[str, ...]] = {
    "rank": (),
    "retrieval": ("retrieve",),
    "prerank": ("prerank",),
}

#: Graphs of those that search: keys and values of the events that are searched, and scores.
FOUND = ("project", "found")

#: Graphs of those that attend to one window: its keys and values, and scores. Not every bundle has
#: them, because each holds the items' vectors once more.
PROJECTED = ("project", "projected")

#: The same in 8 bits, in bundles of one head where that keeps law 1.
PROJECTED_INT8 = ("project_int8", "projected_int8")

#: Fields that a manifest leaves out at their defaults, as those written before them do.
OPTIONAL = {
    "history": 0,
    "search": 0,
    "search_by": "category",
    "summary": 0,
    "refresh_events": 0,
    "stage": "rank",
    "compression": 0,
    "embedding_widths": (),
    "history_where": "",
    "user_embedding": False,
}

#: Upper edges, in seconds, of the time-gap buckets: 0, 1, 2, 4, … about 34 years.
#: Integers, because a logarithm rounds differently in every runtime at powers of two.
TIME_GAP_EDGES_S: tuple[int, ...] = (0, *(2**power for power in range(31)))

#: Where nobody says otherwise: events that are searched, and how many of them a layer finds.
DEFAULT_SEARCHED, DEFAULT_FOUND = 10_000, 100

#: Where nobody says otherwise, in the families that summarise.
DEFAULT_HISTORY = 1_000_000
DEFAULT_REFRESH_EVENTS = 50
MOST_SEARCHED, MOST_SUMMARISED = 100_000, 1_000_000_000  # events of history


class SpecError(ValueError):
    """A spec that no model can be built from."""

    exit_code = 2


@dataclass(frozen=True)
class Spec:
    """The shape of one model.

    `depth` counts target-attention layers (0, the items' biases alone, is for comparisons),
    `window` the events each of them sees, `width` the numbers in one vector, and `heads` divides
    `width`. `tasks` names the heads in order; the first one ranks. A record, in the families that
    cache, holds `depth - 1` vectors: depth 0 is a table look-up and nothing attends to the last
    layer's output. With `search`, a target attends in each layer to that many events, the most
    relevant ones of the newest `history`, in place of the newest `window`.

    A family that summarises has `summary` tokens for the first events of a timeline of up to
    `history`, in whole steps of `refresh_events`; the window covers the rest. 0 means the
    family's usual there, and is all that other families may say.

    The `stage` of most models is to rank. One for retrieval or pre-ranking keeps the shape of the
    ranking model whose records it reads, except for `window`: how many of them it reads.

    An `embedding` other than full has `compression` times fewer numbers than that; those that go
    by popularity say the widths of their bands; autodim without any is still to find them.

    With `history_where`, a task, layers attend only to events whose feedback for it is 1. The
    others keep their places in the timeline, and so in windows and in what is searched.

    With `user_embedding`, retrieval's query has a vector of each user whom training has met.
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
    history: int = 0
    search: int = 0
    search_by: str = "category"
    summary: int = 0
    refresh_events: int = 0
    stage: str = "rank"
    compression: int = 0
    embedding_widths: tuple[int, ...] = ()
    history_where: str = ""
    user_embedding: bool = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise SpecError(f"family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        if self.cache_dtype not in CACHE_DTYPES:
            known = ", ".join(CACHE_DTYPES)
            raise SpecError(f"cache dtype must be one of {known}, not {self.cache_dtype!r}")
        if self.embedding not in EMBEDDINGS:
            known = ", ".join(EMBEDDINGS)
            raise SpecError(f"embedding must be one of {known}, not {self.embedding!r}")
        for name, least, most in (
            ("depth", 0, 32),
            ("window", 1, 10_000),
            ("width", 1, 4_096),
            ("heads", 1, 256),
            ("fallback_rows", 1, 1_000_000),
            ("history", 0, MOST_SUMMARISED if self.kind.summary else MOST_SEARCHED),
            ("search", 0, 10_000),
            ("summary", 0, 4_096),
            ("refresh_events", 0, self.window),
            ("compression", 0, 4_096),
        ):
            value = getattr(self, name)
            if type(value) is not int:
                raise SpecError(f"{name} must be a whole number, not {value!r}")
            if not least <= value <= most:
                raise SpecError(f"{name} must be between {least} and {most}, not {value}")
        if self.depth > (most := self.kind.most_depth):
            raise SpecError(f"depth must be at most {most} in the family {self.family}")
        self._settle_summary()
        self._settle_embedding()
        if self.width % self.heads:
            raise SpecError(f"width {self.width} is not divisible by {self.heads} heads")
        self._check_search()
        self._check_stage()
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise SpecError("tasks must be one or more different names")
        self._check_where()

    def _settle_summary(self) -> None:
        """Fills in what nobody said of a summary, and refuses one where there is none."""
        if not self.kind.summary:
            if self.summary or self.refresh_events:
                raise SpecError(f"the family {self.family} has no summary: leave out its options")
            return
        for name, usual in (
            ("history", DEFAULT_HISTORY),
            ("summary", self.kind.summary),
            ("refresh_events", min(DEFAULT_REFRESH_EVENTS, self.window)),
        ):
            object.__setattr__(self, name, getattr(self, name) or usual)
        if self.history < self.window:
            raise SpecError(f"history {self.history} is less than the window of {self.window}")

    def _settle_embedding(self) -> None:
        """Fills in what nobody said of the item table, and refuses what goes with another."""
        if self.embedding == "full" and self.compression:
            raise SpecError("compression goes with another embedding than full")
        if self.embedding != "full" and not self.compression:
            object.__setattr__(self, "compression", DEFAULT_COMPRESSION)
        if self.embedding not in BANDED:
            if self.embedding_widths:
                raise SpecError(f"the embedding {self.embedding} has no widths of its own")
            return
        if not self.embedding_widths and self.embedding == "autodim":
            return  # training finds them
        if not self.embedding_widths:
            usual = nested_widths if self.embedding == "autoemb" else mixed_widths
            object.__setattr__(self, "embedding_widths", usual(self.width, self.compression))
        if len(self.embedding_widths) != len(BANDS) or not all(
            type(each) is int and 1 <= each <= self.width for each in self.embedding_widths
        ):
            raise SpecError(
                f"embedding widths must be {len(BANDS)} whole numbers from 1 to {self.width}, "
                f"not {self.embedding_widths}"
            )

    def _check_search(self) -> None:
        if self.search_by not in SEARCHES:
            raise SpecError(f"search by one of {', '.join(SEARCHES)}, not {self.search_by!r}")
        if not self.kind.summary and bool(self.search) != bool(self.history):
            raise SpecError("history and search go together: how far back, and how many events")
        if self.search and not self.depth:
            raise SpecError("without layers nothing is searched for: depth must be at least 1")
        if self.search and not self.kind.can_search:
            searching = ", ".join(name for name, kind in FAMILIES.items() if kind.can_search)
            raise SpecError(f"the family {self.family} cannot search; those can: {searching}")

    def _check_where(self) -> None:
        if self.history_where and self.history_where not in self.tasks:
            known = ", ".join(self.tasks)
            raise SpecError(
                f"history where takes one of the tasks {known}, not {self.history_where!r}"
            )
        if self.history_where and self.kind.summary:
            raise SpecError(
                f"the family {self.family} sums up every event: leave out --history-where"
            )

    def _check_stage(self) -> None:
        if self.stage not in STAGES:
            raise SpecError(f"stage must be one of {', '.join(STAGES)}, not {self.stage!r}")
        if self.user_embedding and self.stage != "retrieval":
            raise SpecError("only retrieval has a user embedding: leave it out")
        if self.stage != "rank" and not (self.kind.is_cached and self.kind.is_recursive):
            raise SpecError(
                f"the family {self.family} caches no records that {self.stage} could read"
            )

    @cached_property
    def kind(self) -> Family:
        return FAMILIES[self.family]

    @property
    def graphs(self) -> tuple[str, ...]:
        """What its bundle must hold."""
        found = FOUND if self.search else ()
        return STAGES[self.stage] or (*self.kind.graphs, *found)

    @cached_property
    def layers(self) -> int:
        """Attention layers of its own; pre-ranking has one, over the deepest records."""
        return min(1, self.depth) if self.stage == "prerank" else self.depth

    @cached_property
    def hidden_depths(self) -> int:
        """Layers whose outputs for the events of history other layers attend to."""
        return max(0, self.depth - 1) if self.kind.is_recursive else 0

    @cached_property
    def cached_depths(self) -> int:
        return self.hidden_depths if self.kind.is_cached else 0

    @cached_property
    def encodes(self) -> bool:
        """Whether a request makes records from events, because none are cached."""
        return self.hidden_depths > self.cached_depths

    @cached_property
    def receptive_field(self) -> int:
        """Newest events that can move a score: `window` more for every layer that adds to it."""
        if self.search:
            return self.history + self.record_field
        if self.summary:
            return self.history
        return (self.depth if self.kind.is_recursive else 1) * self.window

    @property
    def record_field(self) -> int:
        """Events before an event that can move its records."""
        return self.hidden_depths * self.window

    @cached_property
    def reads(self) -> int:
        """Newest events that a request reads: all that move a score, or one window of records."""
        if self.search:
            return self.history
        is_window = self.cached_depths or self.summary or self.stage != "rank"
        return self.window if is_window else self.receptive_field

    @cached_property
    def attends(self) -> int:
        """Events in one feed of the rank graph, at most: what is read, or what was found in it."""
        return min(self.search, self.history) if self.finds_first else self.reads

    @cached_property
    def finds_first(self) -> bool:
        """Whether the events to attend to are found before the rank graph runs."""
        return bool(self.search) and self.search_by == "category"

    @cached_property
    def where(self) -> int | None:
        """The task without whose feedback an event is not attended to; None: all events are."""
        return self.tasks.index(self.history_where) if self.history_where else None

    def counted(self, feedback: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Which events are attended to: bool (...,) of feedback (..., tasks)."""
        if self.where is None:
            return np.ones(feedback.shape[:-1], np.bool_)
        return np.asarray(feedback[..., self.where] == 1)

    @property
    def ready_bytes(self) -> int:
        """Keys and values of an event in all layers, as they are kept of users who come again."""
        biases = 0 if self.search else self.heads
        return 4 * (2 * self.width + biases) * self.layers

    @property
    def reach(self) -> int:
        """Newest events whose records are worth keeping: all that a request may read, and more.

        The window beyond it lets late feedback and late events be recomputed from cached records
        instead of from the whole receptive field.
        """
        return max(self.history, self.window) + self.window

    @property
    def rewrites(self) -> int:
        """Newest events that a writer looks at: late ones are mostly not later than a window."""
        return 2 * self.window

    @property
    def least_keep(self) -> int:
        """Events a store must keep per user so that every record can be rebuilt exactly."""
        return self.receptive_field + (self.window if self.kind.is_cached else 0)

    @cached_property
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

    @cached_property
    def summary_row(self) -> np.dtype[np.void]:
        """A summary as the cache holds it: what the rank graph reads, and what more events need."""
        if not self.summary:
            return np.dtype([])
        tokens, rows = (self.summary, self.width), self.summary_rows
        fields: list[Any] = [("state", "<f4", (rows, self.width + 1))]
        if self.cache_dtype == "int8":
            return np.dtype(
                [("summary", "i1", tokens), ("summary_scales", "<f2", tokens[:1]), *fields]
            )
        code = {"float32": "<f4", "float16": "<f2"}[self.cache_dtype]
        return np.dtype([("summary", code, tokens), *fields])

    @property
    def summary_rows(self) -> int:
        """Rows of the sums that a summary is read from: by numbers of a key, or by experts."""
        return self.width + 1 if self.family == "vista" else self.summary

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        told = {n: value for n, value in values.items() if OPTIONAL.get(n, ...) != value}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in told.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The spec that a manifest describes; an unknown or missing field is a `SpecError`."""
        known = {field.name for field in dataclasses.fields(cls)}
        if odd := set(values) ^ (known - (OPTIONAL.keys() - values.keys())):
            raise SpecError(
                f"spec fields do not fit this version of Marmot: {', '.join(sorted(odd))}"
            )
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

"""The loaded bundles, each with its engine; a request picks one, or its user's share does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from cache.base import Layout
from models.bundle import Bundle
from models.spec import PROJECTED, PROJECTED_INT8, Spec
from service.admission import Admission
from service.batcher import Batcher
from service.engine import Engine
from service.errors import UnknownModel
from service.features import Lexicon
from service.job import Lane

SLICES = 10_000
"""Into so many parts users are cut: shares are whole hundredths of a percent."""


SEED = 1
"""So that a share of the users is no share of the store's servers."""


class Use:
    """Who is with a model: `with model.use`. It is not closed before they have left."""

    def __init__(self) -> None:
        self.count = 0
        self._left: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<Use by {self.count}>"

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self._left is not None and not self.count:
            self._left.set()

    async def ends(self) -> None:
        """Returns when nobody is there."""
        if self.count:
            self._left = asyncio.Event()
            await self._left.wait()


#: How far probabilities from cached rows may be from those of a whole timeline (law 1).
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "int8": 2e-2}


@dataclass(frozen=True, eq=False)
class Model:
    """One bundle, ready to run."""

    bundle: Bundle
    engine: Engine
    batcher: Batcher
    lexicon: Lexicon
    #: What the cache keeps for it; None where a model has nothing to cache (depth 1).
    layout: Layout | None
    admission: Admission
    event_admission: Admission
    use: Use = field(default_factory=Use)
    # The bundle's, in reach: every request asks for them more than once.
    spec: Spec = field(init=False)
    version: str = field(init=False)
    fingerprint: str = field(init=False)
    #: The graphs that make keys and values and rank over them, which are kept of users who come
    #: again; empty where there are none.
    projected: tuple[str, ...] = field(init=False)
    #: How far an answer may be from what is computed in full (law 1).
    tolerance: float = field(init=False)
    #: As it stands in every answer.
    name: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        bundle = self.bundle
        name = {"name": bundle.name, "version": bundle.version, "fingerprint": bundle.fingerprint}
        object.__setattr__(self, "spec", bundle.spec)
        object.__setattr__(self, "version", bundle.version)
        object.__setattr__(self, "fingerprint", bundle.fingerprint)
        pairs = (pair for pair in (PROJECTED_INT8, PROJECTED) if all(map(self.engine.has, pair)))
        object.__setattr__(self, "projected", next(pairs, ()))
        dtypes = (bundle.spec.cache_dtype, "int8" if self.is_int8 else "float32")
        object.__setattr__(self, "tolerance", max(TOLERANCE[dtype] for dtype in dtypes))
        object.__setattr__(self, "name", name)

    def __repr__(self) -> str:
        return f"<Model {self.version}, {self.use.count} with it>"

    @property
    def is_int8(self) -> bool:
        """Whether it ranks in 8 bits: then over projections always, so that answers are alike."""
        return self.projected == PROJECTED_INT8

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        engine: Engine,
        batcher: Batcher,
        admission: Admission | None = None,
        event_admission: Admission | None = None,
    ) -> Model:
        spec = bundle.spec
        layout = None
        if spec.cached_depths or spec.summary:
            # Rows that any request may find stay as long as their events do.
            reach = spec.reach if spec.cached_depths and not spec.search else None
            span = spec.record_field if spec.search else None
            layout = Layout(bundle.fingerprint, spec.row, reach, span, spec.summary_row)
        lexicon = Lexicon(bundle.vocabulary)
        return cls(
            bundle,
            engine,
            batcher,
            lexicon,
            layout,
            admission or Admission(batcher),
            event_admission or Admission(batcher, lane=Lane.EVENT),
        )

    async def close(self) -> None:
        """Waits for who is with it, then ends its thread."""
        await self.use.ends()
        await self.batcher.close()
        await asyncio.to_thread(self.engine.close)


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers whom: replaced as a whole, between two requests."""

    active: Model
    #: Models with the slice of users that each of them ends before; in order, the first from 0 on.
    canaries: Sequence[tuple[int, Model]] = ()
    #: Models with the percent of requests that are scored by them too.
    shadows: Sequence[tuple[float, Model]] = ()

    @classmethod
    def of(
        cls,
        active: Model,
        canaries: Sequence[tuple[float, Model]] = (),
        shadows: Sequence[tuple[float, Model]] = (),
    ) -> Split:
        """Shares in percent; one canary's users begin where another's end."""
        end, ends = 0.0, []
        for percent, model in canaries:
            end += percent
            ends.append((round(end * SLICES / 100), model))
        return cls(active, ends, shadows)


class Registry:
    """Models by version; one of them answers where the request names none."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        #: Who answers whom; there is none before a model was added.
        self.split: Split

    def __repr__(self) -> str:
        return f"<Registry of {', '.join(self._models) or 'nothing'}>"

    @property
    def active(self) -> Model:
        return self.split.active

    def add(self, model: Model) -> None:
        """Takes a model in; the first one is the active one."""
        if not self._models:
            self.split = Split(model)
        self._models[model.version] = model

    def drop(self, model: Model) -> None:
        """Requests do not find it any more; those that have found it keep it."""
        if self._models.get(model.version) is model:
            del self._models[model.version]

    async def close(self) -> None:
        for model in list(self._models.values()):
            await model.close()

    def named(self, name: str) -> list[Model]:
        """Every loaded version of the model that is called so."""
        return [model for model in self._models.values() if model.bundle.name == name]

    def pick(self, version: str | None, user_id: str) -> Model:
        """The model of that version, or the one that answers this user."""
        if version is None:
            split = self.split
            return split.active if not split.canaries else _canary(split, user_id)
        model = self._models.get(version)
        if model is None:
            known = ", ".join(self._models)
            raise UnknownModel(f"model.version {version!r} is not loaded; there is {known}")
        return model


def _canary(split: Split, user_id: str) -> Model:
    """A user stays with a canary while its share grows."""
    place = xxhash.xxh32_intdigest(user_id.encode(), SEED) % SLICES
    for end, model in split.canaries:
        if place < end:
            return model
    return split.active

"""The loaded bundles, each with its engine; a request picks one."""

from __future__ import annotations

from dataclasses import dataclass, field

from cache.base import Layout
from models.bundle import Bundle
from models.spec import Spec
from service.batcher import Batcher
from service.engine import Engine
from service.errors import UnknownModel
from service.features import Lexicon


@dataclass(frozen=True, eq=False)
class Model:
    """One bundle, ready to run."""

    bundle: Bundle
    engine: Engine
    batcher: Batcher
    lexicon: Lexicon
    #: What the cache keeps for it; None where a model has nothing to cache (depth 1).
    layout: Layout | None
    #: As it stands in every answer.
    name: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        bundle = self.bundle
        name = {"name": bundle.name, "version": bundle.version, "fingerprint": bundle.fingerprint}
        object.__setattr__(self, "name", name)

    @property
    def spec(self) -> Spec:
        return self.bundle.spec

    @property
    def fingerprint(self) -> str:
        return self.bundle.fingerprint

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine, batcher: Batcher) -> Model:
        spec = bundle.spec
        keeps = spec.cached_depths or spec.summary
        layout = (
            Layout(bundle.fingerprint, spec.row, spec.reach, spec.summary_row) if keeps else None
        )
        return cls(bundle, engine, batcher, Lexicon(bundle.vocabulary), layout)


class Registry:
    """Models by version; one of them answers where the request names none."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._active: Model | None = None

    def __repr__(self) -> str:
        return f"<Registry of {', '.join(self._models) or 'nothing'}>"

    @property
    def active(self) -> Model:
        if self._active is None:
            raise RuntimeError("No model is active before one was added. This is a bug.")
        return self._active

    def add(self, model: Model) -> None:
        """Takes a model in; the last one added is the active one."""
        self._models[model.bundle.version] = model
        self._active = model

    def named(self, name: str) -> list[Model]:
        """Every loaded version of the model that is called so."""
        return [model for model in self._models.values() if model.bundle.name == name]

    def pick(self, version: str | None) -> Model:
        """The model of that version, or the active one."""
        if version is None:
            return self.active
        model = self._models.get(version)
        if model is None:
            known = ", ".join(self._models)
            raise UnknownModel(f"model.version {version!r} is not loaded; there is {known}")
        return model

"""Family: what training and serving must both know of a kind of model. Leaf, without torch."""

from __future__ import annotations

from typing import NamedTuple

#: Numbers between a pair of target and event and its weights, in the family din.
UNIT_WIDTH = 16


class Family(NamedTuple):
    """How a kind of model spends a user's history; everything else follows in `Spec`.

    All of them are one idea: what can be computed of a user once is cached, and a request runs
    the candidates' attention. They differ in what their layers attend to and what is kept of it.
    """

    #: Layers above the first attend to what the layer below made of each event, so that each of
    #: them sees a window further back; otherwise every layer attends to the events themselves.
    is_recursive: bool = False
    #: What the layers made of an event is cached; otherwise every request makes it again.
    is_cached: bool = False
    #: Tokens that stand for all of a user's older events, where nobody says how many; 0: none do.
    #: They are cached as one value, and layers attend to them beside the newest events.
    summary: int = 0
    most_depth: int = 32
    #: Whether targets can attend to events that were searched for.
    can_search: bool = False

    @property
    def graphs(self) -> tuple[str, ...]:
        """What a bundle holds: ranking reads what is cached, the others make it."""
        if self.summary:
            return ("rank", "summarise")
        return ("rank", "append", "encode") if self.is_cached else ("rank",)


FAMILIES = {
    "marm": Family(is_recursive=True, is_cached=True, can_search=True),
    "full": Family(is_recursive=True),
    "stca": Family(),
    "din": Family(most_depth=1),
    "sim": Family(most_depth=1, can_search=True),
    "vista": Family(summary=128),
    "elastic": Family(summary=32),
}

DEFAULT_DEPTH = 4


def default_depth(family: str) -> int:
    """Layers where nobody says how many; that a family is not known is said by `Spec`."""
    return min(DEFAULT_DEPTH, FAMILIES.get(family, Family()).most_depth)

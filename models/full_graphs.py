"""Full's one graph: Marm's encode and rank in one, with nothing between them but a cut."""

from __future__ import annotations

from models.graph import GraphBuilder
from models.graph_history import Past, bucket_of, memories, read_past
from models.graph_targets import Targets, ask, since
from models.graph_weights import GraphWeights
from models.marm_graphs import records_of
from models.sequences import NEVER_S


def rank(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Events of the whole receptive field and candidates to scores."""
    candidates, timestamp = ask(g)
    past, times = _padded(g, *read_past(w, g))
    records = records_of(w, g, past, times, past.items, times)

    def newest(tensor: str) -> str:
        return g.add("Slice", tensor, g.ints(-w.spec.window), g.ints(2**31), g.ints(1))

    seen = Past(
        newest(past.items), newest(past.feedback), None if records is None else newest(records)
    )
    gap = since(g, timestamp, newest(times))
    targets = Targets(w, g, candidates, timestamp)
    for depth, memory in enumerate(memories(w, g, seen, bucket_of(g, gap))):
        targets.attend(depth, *memory)
    targets.score()
    return g


def _padded(g: GraphBuilder, past: Past, times: str) -> tuple[Past, str]:
    """One event more, before all others and in their future: attention wants something to ask."""

    def before(tensor: str, value: int, dtype: str) -> str:
        return g.add("Pad", tensor, g.ints(1, 0), g.constant(value, dtype), g.ints(1))

    items, feedback = before(past.items, 0, "int64"), before(past.feedback, -1, "int8")
    return Past(items, feedback, None), before(times, NEVER_S, "int64")

"""The families as training knows them: each a model in PyTorch and the graphs that serve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from models import (
    din_graphs,
    found_graphs,
    full_graphs,
    int8_graphs,
    marm_graphs,
    projected_graphs,
    seek_graphs,
    stca_graphs,
    summary_graphs,
)
from models.bundle import EXPLAIN, Graph
from models.din import Din
from models.full import Full
from models.graph import GraphBuilder
from models.graph_weights import GraphWeights
from models.marm import Marm
from models.ranking_model import RankingModel
from models.sim import Sim
from models.stca import Stca
from models.summarised import Elastic, Vista

#: Writes a graph of a model's weights.
Writer = Callable[[GraphWeights, GraphBuilder], GraphBuilder]

MODELS: Mapping[str, type[RankingModel]] = {
    "marm": Marm,
    "full": Full,
    "stca": Stca,
    "din": Din,
    "sim": Sim,
    "vista": Vista,
    "elastic": Elastic,
}

WRITERS: Mapping[str, Mapping[str, Writer]] = {
    "marm": {
        "rank": marm_graphs.rank,
        "append": marm_graphs.append,
        "encode": marm_graphs.encode,
        EXPLAIN: marm_graphs.explain,
    },
    "full": {"rank": full_graphs.rank},
    "stca": {"rank": stca_graphs.rank},
    "din": {"rank": din_graphs.rank},
    "sim": {"rank": marm_graphs.rank},
    "vista": {"rank": summary_graphs.rank, "summarise": summary_graphs.summarise},
    "elastic": {"rank": summary_graphs.rank, "summarise": summary_graphs.summarise},
}


#: What those write besides that search.
SEARCHING: Mapping[str, Mapping[str, Writer]] = {
    "category": {"project": found_graphs.project, "found": found_graphs.found},
    "attention": {"project": seek_graphs.project, "found": seek_graphs.found},
}


#: What marm writes besides where it does not search.
PROJECTING: Mapping[str, Writer] = {
    "project": projected_graphs.project,
    "projected": projected_graphs.projected,
}


#: And where it has one head: the same in 8 bits.
INT8: Mapping[str, Writer] = {
    "project_int8": int8_graphs.project,
    "projected_int8": int8_graphs.projected,
}


def _more(model: RankingModel) -> Mapping[str, Writer]:
    """Writers of the graphs that not every model of a family has."""
    spec = model.spec
    if spec.search:
        return SEARCHING[spec.search_by]
    can_project = spec.family == "marm" and spec.layers and spec.stage == "rank"
    if not can_project:
        return {}
    return {**PROJECTING, **INT8} if spec.heads == 1 else PROJECTING


def build_graphs(model: RankingModel) -> dict[str, tuple[onnx.ModelProto, Graph]]:
    """Every graph of a model's bundle, by name."""
    return {
        name: write(GraphWeights(model), GraphBuilder()).build(f"{name}.onnx")
        for name, write in {**WRITERS[model.spec.family], **_more(model)}.items()
        # Without layers there is no attention to show, and with search no one window of events.
        if name != EXPLAIN or (model.spec.depth and not model.spec.search)
    }

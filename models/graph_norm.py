"""The one norm of all graphs."""

from __future__ import annotations

import numpy as np

from models.graph import GraphBuilder
from models.graph_weights import GraphWeights


def normalised(w: GraphWeights, g: GraphBuilder, x: str) -> str:
    """`attention.normalised` of (…, width)."""
    return g.add("RMSNormalization", x, g.floats(np.ones(w.width)), axis=-1, epsilon=1e-6)

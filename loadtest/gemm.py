"""The machine's own limit: float32 matrix products, as fast as a library makes them.

    echo '{"library": "numpy", "size": 1024, "seconds": 1}' | python -m loadtest.gemm

Run in a process of its own: it alone may load torch, and the threads are its environment's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np

LIBRARIES = ("numpy", "torch")


def libraries() -> list[str]:
    """Those that are installed here."""
    return [name for name in LIBRARIES if find_spec(name)]


def main() -> None:
    """Answers each line on stdin with how long every product took, in seconds."""
    products: dict[tuple[str, int], Callable[[], Any]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        key = question["library"], question["size"]
        if key not in products:
            products[key] = product(*key)
            products[key]()  # the first one wakes threads and touches pages
        took_s = turn(products[key], question["seconds"])
        sys.stdout.write(json.dumps({"took_s": took_s}) + "\n")
        sys.stdout.flush()


def product(library: str, size: int) -> Callable[[], Any]:
    """Multiplies two square matrices each time it is called, into the same result."""
    left, right = np.random.default_rng(0).random((2, size, size), np.float32)
    if library == "numpy":
        out = np.empty((size, size), np.float32)
        return lambda: np.matmul(left, right, out=out)
    torch = import_module(library)
    torch.set_num_threads(1)
    pair = torch.from_numpy(left), torch.from_numpy(right)
    result = torch.empty(size, size)
    return lambda: torch.matmul(*pair, out=result)


def turn(work: Callable[[], Any], seconds: float) -> list[float]:
    """How long each run took, for that long; at least one."""
    took: list[float] = []
    began = perf_counter()
    end = began + seconds
    while began < end or not took:
        work()
        done = perf_counter()
        took.append(done - began)
        began = done
    return took


if __name__ == "__main__":
    main()

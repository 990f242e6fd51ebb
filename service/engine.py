"""The runtime: one ONNX Runtime session per graph, run on one thread of their own.

An `Engine` is made in the process that runs it: sessions do not survive a fork.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import numpy as np

from models.bundle import Bundle
from service.bound import BoundRuns
from service.buckets import Buckets
from service.errors import EngineFailed, StartError

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]
#: Outputs by name and the seconds the run took, or what went wrong.
Finished = Callable[[dict[str, Array] | None, float, EngineFailed | None], None]
IsWanted = Callable[[], bool]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
SWITCH_S = 5e-5
"""How long another thread may keep the interpreter while a run waits to be handed over.

Python's own 5 ms are several runs long.
"""

#: Where a provider computes; the others take and give host memory.
DEVICES = {"cuda": "cuda", "tensorrt": "cuda"}


class Engine:
    """Runs a bundle's graphs; `submit` returns at once, `run` waits.

    Those that not every bundle has are opened if they are here and named in `also`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: str = "cpu",
        threads: int = 1,
        buckets: Buckets | None = None,
        also: Sequence[str] = (),
    ) -> None:
        self.bundle = bundle
        self.provider = provider
        #: What runs are padded to; with them, runs go through buffers that stay on the device.
        self.buckets = buckets
        self.runs: Counter[str] = Counter()
        self._outputs = {
            name: [port.name for port in graph.outputs]
            for name, graph in bundle.graphs.items()
            if graph.outputs
        }
        self._open = partial(_open_session, provider=provider, threads=threads)
        #: Large tables by where they begin in the bundle's file; sessions only borrow them.
        self._tables: dict[int, Any] = {}
        self._sessions = {
            name: self._open_graph(name)
            for name in self._outputs
            if name in (*bundle.spec.graphs, *also)  # small tables are in each once more
        }
        device = DEVICES.get(provider.lower(), "cpu")
        self._bound = {
            name: BoundRuns(session, bundle.graphs[name], device)
            for name, session in self._sessions.items()
            if buckets is not None
        }
        self._work: SimpleQueue[tuple[str, Feed, Finished, IsWanted] | None] = SimpleQueue()
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._serve, name="marmot-engine", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Engine {self.bundle.name} on {self.provider}, {self.runs.total()} runs>"

    def has(self, graph: str) -> bool:
        """Whether the graph can be run."""
        return graph in self._sessions

    def open(self, graph: str) -> None:
        """Makes a graph ready that was not opened at the start; takes its time once."""
        if graph not in self._sessions:
            self._sessions[graph] = self._open_graph(graph)

    def submit(self, graph: str, feed: Feed, finished: Finished, is_wanted: IsWanted) -> None:
        """Queues a run; `finished` is called from the engine's thread.

        A run that is not wanted any more when its turn comes is not made: it finishes with nothing.
        """
        self._work.put((graph, feed, finished, is_wanted))

    def run(self, graph: str, feed: Feed) -> dict[str, Array]:
        """Runs a graph on the caller's thread and returns its outputs by name."""
        names = self._outputs[graph]
        self.runs[graph] += 1
        try:
            if bound := self._bound.get(graph):
                return dict(zip(names, bound.run(feed), strict=True))
            return dict(zip(names, self._sessions[graph].run(names, feed), strict=True))
        except Exception as error:  # whatever the runtime throws, it is the runtime's failure
            raise EngineFailed(f"{graph}: the runtime refused a batch") from error

    def close(self) -> None:
        """Finishes what is queued, then ends the thread."""
        self._work.put(None)
        self._thread.join()

    def _open_graph(self, name: str) -> Any:
        graph = self.bundle.graphs[name]
        # Other providers copy tables to where they compute.
        lent = graph.tables if self.provider.lower() == "cpu" else ()
        for table in lent:
            if table.offset not in self._tables:
                self._tables[table.offset] = _lendable(self.bundle.table(table))
        borrowed = {table.name: self._tables[table.offset] for table in lent}
        return self._open(self.bundle.file(graph.file), borrowed)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            graph, feed, finished, is_wanted = item
            if not is_wanted():
                finished(None, 0.0, None)
                continue
            began = perf_counter()
            try:
                outputs = self.run(graph, feed)
            except EngineFailed as error:
                finished(None, perf_counter() - began, error)
            else:
                finished(outputs, perf_counter() - began, None)


def _runtime(provider: str) -> Any:
    try:
        import onnxruntime as ort  # noqa: PLC0415  (an extra: cpu or gpu)
    except ModuleNotFoundError as error:
        extra = "cpu" if provider == "cpu" else "gpu"
        raise StartError(f"there is no ONNX Runtime here: pip install 'marmot[{extra}]'") from error
    ort.disable_telemetry_events()  # on by default in its builds
    return ort


def _lendable(table: Array) -> Any:
    """A table as sessions borrow it: not copied."""
    return _runtime("cpu").OrtValue.ortvalue_from_numpy(table)


def _open_session(file: Path, borrowed: Mapping[str, Any], *, provider: str, threads: int) -> Any:
    ort = _runtime(provider)
    asked = PROVIDERS.get(provider.lower(), provider)
    known = ort.get_available_providers()
    if asked not in known:
        raise StartError(
            f"the provider {provider} is not in this ONNX Runtime, which has {', '.join(known)}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Only the first session of a process decides this one; without it, padding runs on denormals.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # A thread that spins for work takes the core from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, table in borrowed.items():
        options.add_initializer(name, table)
    try:
        session = ort.InferenceSession(str(file), options, providers=[asked])
    except Exception as error:
        raise StartError(f"{file}: ONNX Runtime cannot load it: {_first_line(error)}") from error
    got = session.get_providers()[0]
    if got != asked:
        raise StartError(f"asked for {asked}, ONNX Runtime would run on {got}; refused")
    return session


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]

"""mosec: a Rust front hands requests to a worker process through a socket."""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker

from loadtest.peers.ranking import PORT, Ranking


class Rank(Worker):
    """The model, in a process of its own."""

    def __init__(self) -> None:
        self._ranking = Ranking.from_environment()

    def forward(self, data: Any) -> dict[str, list[float]]:
        return {"scores": self._ranking.rank(data["user_id"], data["candidates"])}


if __name__ == "__main__":
    # Its settings are its command line's.
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning"]
    server = Server()
    server.append_worker(Rank, num=1)
    server.run()

"""BentoML: a service class; its synchronous endpoints run on threads beside the event loop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml

from loadtest.peers.ranking import PORT, Ranking


@bentoml.service(workers=1, threads=1)
class Rank:
    """The model, loaded once per worker."""

    def __init__(self) -> None:
        self._ranking = Ranking.from_environment()

    @bentoml.api
    def rank(self, user_id: str, candidates: list[int | str]) -> dict[str, list[float]]:
        """Scores in the order of the candidates."""
        return {"scores": self._ranking.rank(user_id, candidates)}


if __name__ == "__main__":
    # Services are started by their own command.
    command = Path(sys.executable).with_name("bentoml")
    folder = str(Path(__file__).parent)
    os.execl(  # noqa: S606 - a path of our own
        command, command, "serve", "server:Rank", "--working-dir", folder,
        "--host", "127.0.0.1", "--port", str(PORT), "--do-not-track", "--quiet",
    )  # fmt: skip

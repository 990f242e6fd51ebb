"""LitServe: FastAPI in one process, the model in another, queues between them."""

from __future__ import annotations

from typing import Any

from litserve import LitAPI, LitServer

from loadtest.peers.ranking import PORT, Ranking


class Rank(LitAPI):
    """The model; `setup` is run in the worker."""

    def setup(self, device: str) -> None:
        self._ranking = Ranking.from_environment()

    def predict(self, x: dict[str, Any], **_: Any) -> dict[str, list[float]]:
        return {"scores": self._ranking.rank(x["user_id"], x["candidates"])}


if __name__ == "__main__":
    server = LitServer(Rank(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=PORT, num_api_servers=1, log_level="warning",
        generate_client_file=False,
    )  # fmt: skip

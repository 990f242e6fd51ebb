"""KServe's SDK: a Model with an asynchronous `predict`, under the V1 protocol."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kserve import Model, ModelServer
from redis.asyncio import Redis

from loadtest.peers.packing import key_of
from loadtest.peers.ranking import PORT, REDIS, Ranking


class Rank(Model):
    """The model; it must not block the loop that calls it."""

    def __init__(self) -> None:
        super().__init__("rank")
        self._redis = Redis.from_url(REDIS)
        self._ranking = Ranking.from_environment()
        self._engine = ThreadPoolExecutor(1)
        self.ready = True

    async def predict(self, payload: dict[str, Any], *_: Any) -> dict[str, Any]:
        return {"predictions": [await self._rank(asked) for asked in payload["instances"]]}

    async def _rank(self, asked: dict[str, Any]) -> list[float]:
        packed = await self._redis.get(key_of(asked["user_id"]))
        score, candidates = self._ranking.score, asked["candidates"]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._engine, score, packed, candidates)


if __name__ == "__main__":
    ModelServer(http_port=PORT, workers=1, enable_grpc=False, enable_latency_logging=False).start(
        [Rank()]
    )

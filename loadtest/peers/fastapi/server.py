"""The control, what one would write first: FastAPI, one GET, ONNX Runtime on its own thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis

from loadtest.peers.packing import key_of
from loadtest.peers.ranking import PORT, REDIS, Ranking


class RankRequest(BaseModel):
    """Candidates for a user."""

    user_id: str
    candidates: list[int | str]


app = FastAPI()
redis = Redis.from_url(REDIS)
ranking = Ranking.from_environment()
engine = ThreadPoolExecutor(1)


@app.post("/rank")
async def rank(request: RankRequest) -> dict[str, list[float]]:
    """Scores in the order of the candidates."""
    packed = await redis.get(key_of(request.user_id))
    loop = asyncio.get_running_loop()
    return {"scores": await loop.run_in_executor(engine, ranking.score, packed, request.candidates)}


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning", access_log=False)

"""Histories of full windows, so that every request of a drill is of one size."""

from __future__ import annotations

import json
import time

from loadtest.client import Client

KNOWN_ITEMS = 60


async def give_histories(client: Client, users: int, events: int) -> None:
    """Every user, from 1 on, gets so many events up to now."""
    now = int(time.time())
    for user in range(1, users + 1):
        sent = [
            {"user_id": user, "item_id": place % KNOWN_ITEMS, "timestamp": now - events + place}
            for place in range(events)
        ]
        answer = await client.post("/v1/events", json.dumps({"events": sent}).encode())
        assert answer.status == 200

"""The client's types and the OpenAPI document say the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from service import client
from tests.servers import Running

Schema = dict[str, Any]

#: What the client takes, and what the service does; `deadline_s` becomes `deadline_ms`.
ASKED = [
    (client.RankRequest, "RankRequest", {"deadline_ms"}),
    (client.Event, "HistoryEvent", set()),
    (client.UserEvent, "PostedEvent", set()),
]
ANSWERED = [
    (client.RankAnswer, "RankResponse"),
    (client.CacheReport, "CacheReport"),
    (client.EventResult, "EventResult"),
    (client.Timeline, "TimelineResponse"),
]


@pytest.fixture(scope="module")
def document(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Schema:
    running = Running(bundle=tiny_bundle, cache=f"lmdb:{tmp_path_factory.mktemp('types')}")
    found: Schema = running.client.get("/openapi.json").json()
    running.stop()
    return found


@pytest.mark.parametrize("case", [*ASKED, *((*each, set()) for each in ANSWERED)], ids=str)
def test_types_do_not_drift(document: Schema, case: tuple[Any, str, set[str]]) -> None:
    """The same fields, the same ones required, of the same types as far as JSON tells them."""
    kind, name, left_out = case
    ours = TypeAdapter(kind).json_schema()
    theirs = document["components"]["schemas"][name]
    fields = set(ours["properties"])
    assert fields == set(theirs["properties"]) - left_out
    if name != "EventResult":  # whose parts come one way or the other
        assert set(ours.get("required", [])) == set(theirs.get("required", []))
    for field in fields:
        one = _types(ours["properties"][field], ours)
        other = _types(theirs["properties"][field], document)
        if name in {asked for _, asked, _ in ASKED} or name == "EventResult":
            # What may be null may be left out.
            other = {each for each in other if not each.endswith("null")}
        assert one == other, field


def _types(schema: Schema, root: Schema) -> set[str]:
    """JSON's types, down to what is in lists and objects."""
    return set(_each(schema, root))


def _each(schema: Schema, root: Schema) -> Iterator[str]:
    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        yield from _each(found, root)
    elif "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from _each(each, root)
    elif schema.get("type") == "array":
        yield from (f"list of {each}" for each in _each(schema["items"], root))
    elif schema.get("type") == "object":
        below = [*schema.get("properties", {}).values()]
        inner = schema.get("additionalProperties")
        below += [inner] if isinstance(inner, dict) else []
        kinds = {each for one in below for each in _each(one, root)}
        yield from (f"object of {each}" for each in kinds or {"anything"})
    elif "const" in schema or "enum" in schema:
        yield "string"
    else:
        yield str(schema.get("type", "anything"))


def test_every_call_is_in_the_document(document: Schema) -> None:
    """Each method of the client names a path that the service has, and both clients have it."""
    calls = {
        "rank": ("/v1/rank", "post"),
        "rank_batch": ("/v1/rank:batch", "post"),
        "retrieve": ("/v1/retrieve", "post"),
        "prerank": ("/v1/prerank", "post"),
        "recommend": ("/v1/recommend", "post"),
        "events": ("/v1/events", "post"),
        "timeline": ("/v1/users/{user_id}/timeline", "get"),
        "forget": ("/v1/users/{user_id}", "delete"),
    }
    for path, method in calls.values():
        assert method in document["paths"][path]
    for kind in (client.Client, client.AsyncClient):
        public = {name for name in vars(kind) if not name.startswith("_")} - {"close"}
        assert public == set(calls)

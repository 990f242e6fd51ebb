"""`/v1/items`: what a person types finds items."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from models.bundle import Vocabulary
from service.catalogue import Catalogue


@pytest.fixture
def service(serve: Any) -> Any:
    return serve()


def ask(service: Any, **params: Any) -> httpx.Response:
    found: httpx.Response = service.client.get("/v1/items", params=params)
    return found


def ids(service: Any, **params: Any) -> list[str]:
    answer = ask(service, **params)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_items_are_found_by_name_and_id(service: Any) -> None:
    """The id itself comes first, then what begins so; letters' case does not matter."""
    assert ask(service, q="ITEM 7").json() == {"items": [{"item_id": "7", "name": "Item 7"}]}
    fives = [str(number) for number in range(50, 60)]
    assert ids(service, q="5") == ["5", *fives, "15", "25", "35", "45"]
    assert ids(service, q="no such") == []


def test_limits(service: Any) -> None:
    """Twenty by default, as many as asked for, a hundred at most; without words the first ones."""
    assert ids(service) == [str(number) for number in range(20)]
    assert ids(service, q="item", limit=3) == ["0", "1", "2"]
    assert len(ids(service, limit=10**6)) == 60


def test_items_by_their_ids(service: Any) -> None:
    """Those that are known, in the order asked for, a hundred at most."""
    assert ids(service, id=["7", "no", "3"]) == ["7", "3"]
    assert ids(service, id=["no"]) == []
    assert len(ids(service, id=["1"] * 150)) == 100


def test_items_at_random(service: Any) -> None:
    """Each once, as many as asked for, and the same again for the same number."""
    drawn = ids(service, sample=7, limit=30)
    assert len(set(drawn)) == 30
    assert ids(service, sample=7, limit=30) == drawn
    assert ids(service, sample=8, limit=30) != drawn
    assert len(ids(service, sample=0, limit=100)) == 60


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"limit": "0"}, "limit must be a whole number of at least 1"),
        ({"limit": "x"}, "limit must be a whole number of at least 1"),
        ({"sample": "-1"}, "sample must be a whole number of at least 0"),
        ({"q": "a\x00"}, "q contains control characters"),
        ({"q": "a" * 200}, "q is longer than 128 bytes"),
    ],
)
def test_refusals(service: Any, params: dict[str, str], said: str) -> None:
    """422, and the parameter is named."""
    answer = ask(service, **params)
    assert (answer.status_code, answer.json()["detail"]) == (422, said)


def test_a_catalogue_by_hand() -> None:
    """Id, beginning of the name, of the id, of a word, inside; names may be missing or odd."""
    names = ["Amélie", "Star Wars", "The Stars", "Mustard", None, "star\twars\n2"]
    found = Catalogue(Vocabulary(["a", "b", "star", "c", "starling", "d"], list(names), 1))
    assert found.find("STAR", 10) == [2, 1, 5, 4, 3]
    assert found.find("star wars", 10) == [1, 5]
    assert found.find("amÉ", 10) == [0]
    assert found.find("stars", 10) == [2]
    assert Catalogue(Vocabulary([], [], 1)).find("x", 5) == []

"""The tree of failures."""

from __future__ import annotations

import re

from service import errors
from service.errors import Problem


def every(kind: type) -> list[type]:
    return [kind, *(each for child in kind.__subclasses__() for each in every(child))]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every class of the module is drawn in its docstring, and nothing else is."""
    drawn = set(re.findall(r"(?:^|─ )([A-Z][A-Za-z]+)  ", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__ for kind in every(errors.ServiceError)}


def test_every_problem_has_its_own_type_and_status() -> None:
    """Types are stable and unique; 429 and 503 say when to come back."""
    problems = [kind() for kind in every(Problem)]
    told = [problem.to_dict() for problem in problems]
    types = [each["type"] for each in told]
    # InternalError is the default of the tree itself.
    assert len(set(types)) == len(types) - 1
    for problem, each in zip(problems, told, strict=True):
        assert each["type"].startswith("/problems/")
        assert each["title"]
        assert each["detail"]
        assert ("retry-after" in problem.headers()) == (each["status"] in {429, 503})

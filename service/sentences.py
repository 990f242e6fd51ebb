"""What pydantic complains of, as one sentence that names the field."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_TYPES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "missing": "is required",
    "extra_forbidden": "is not a known field",
}


def sentence(error: ValidationError) -> str:
    """The first thing that is wrong, with the field it is wrong in."""
    errors = error.errors(include_url=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']}"
    field = _field(first)
    same = [each for each in errors if _field(each) == field]
    kinds = {each["type"] for each in same}
    if kinds == {"int_type", "string_type"}:
        said = "must be text or a whole number"
    else:
        # Of a union's complaints the one about the value is the one about the right type.
        told = next(
            (each for each in same if each["type"] not in ("int_type", "string_type")), first
        )
        said = _said(told)
    return f"{field or 'the body'} {said}"


def _field(error: ErrorDetails) -> str:
    parts = [
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in error["loc"]
        if not (
            isinstance(part, str)
            and (part.startswith(("constrained-", "function-")) or part in ("int", "str", "[key]"))
        )
    ]
    return "".join(parts).lstrip(".")[:200]


def _said(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "too_short":
        return "must not be empty"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}"
    return error["msg"]

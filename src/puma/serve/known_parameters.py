"""Refusing parameters and form fields that a route does not have: a misspelt one would otherwise be left out unseen."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import params
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request


async def known_parameters(request: Request) -> None:
    """A dependency of routes: every parameter of the address, and every field of a form, must be one that the route
    takes.

    Raises:
        RequestValidationError: one of them is unknown; the message lists those that the route takes.
    """
    dependant: Dependant = request.scope["route"].dependant
    faults = _unknown("query", request.query_params.keys(), [field.alias for field in dependant.query_params])
    fields = [field.alias for field in dependant.body_params if isinstance(field.field_info, params.Form)]
    if fields:  # FastAPI has read the form by now; this gives the same one
        faults += _unknown("body", (await request.form()).keys(), fields)
    if faults:
        raise RequestValidationError(faults)


def _unknown(place: str, given: Iterable[str], known: list[str]) -> list[dict[str, object]]:
    there = f"known are {', '.join(sorted(known))}" if known else "there are none"
    return [
        {"type": "extra_forbidden", "loc": (place, name), "msg": f"unknown parameter; {there}", "input": None}
        for name in dict.fromkeys(given)
        if name not in known
    ]

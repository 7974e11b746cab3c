"""``/session``: a browser exchanges the token for a cookie that scripts cannot read, and gives it back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from puma.serve.auth import LIFE_S, Token
from puma.serve.service import service

router = APIRouter(tags=["service"])


class SignIn(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(strict=True, extra="forbid")
    token: Annotated[str, Field(min_length=1, max_length=4096)]


@router.post("/session", status_code=204, summary="Exchange the token for a cookie")
async def sign_in(given: SignIn, request: Request) -> Response:
    """Sets a cookie by which this browser is known for thirty days. Without a token on the service nothing is set."""
    secret = service(request).settings.token
    answer = Response(status_code=204)
    if secret is None:
        return answer
    token = Token(secret)
    if not token.is_right(given.token):
        raise HTTPException(401, "this is not the token", {"WWW-Authenticate": "Bearer"})
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    answer.set_cookie(
        token.cookie_name, token.cookie(), max_age=LIFE_S, path="/", httponly=True, samesite="strict", secure=secure
    )
    return answer


@router.delete("/session", status_code=204, summary="Give the cookie back")
async def sign_out(request: Request) -> Response:
    """Removes this browser's cookie."""
    secret = service(request).settings.token
    answer = Response(status_code=204)
    if secret is not None:
        answer.delete_cookie(Token(secret).cookie_name, path="/", httponly=True, samesite="strict")
    return answer

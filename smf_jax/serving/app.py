"""The application: all routes behind one guard, every error in one form."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smf_jax.serving.class_room import ClassRoom
from smf_jax.serving.config import ServeConfig
from smf_jax.serving.errors import RequestError
from smf_jax.serving.guard import check_sender
from smf_jax.serving.openai_routes import OpenAIRoutes
from smf_jax.serving.page_routes import OPEN_PATHS, PageRoutes
from smf_jax.serving.served_models import ServedModels
from smf_jax.serving.worker import Worker

_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def make_app(config: ServeConfig, models: ServedModels, worker: Worker, token: str) -> ASGIApp:
    """The application of a server."""
    limits = config.limits
    room = None if config.read_only else ClassRoom(models.directory, config.training)
    bounds = limits.max_tokens, limits.max_body
    routes = [
        *OpenAIRoutes(models, worker, *bounds).routes(),
        *PageRoutes(models, worker, room, *bounds).routes(),
    ]
    handlers = {RequestError: _refused, HTTPException: _no_route, Exception: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guarded(app, token, config.host)


@dataclass(frozen=True)
class Guarded:
    """An application that only those reach who may."""

    app: ASGIApp
    token: str  # empty for none
    host: str  # that the server was told to listen at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        request = Request(scope)
        token = "" if scope["path"] in OPEN_PATHS else self.token
        try:
            if not (self.token and scope["path"] in OPEN_PATHS):
                check_sender(request, token, self.host)
        except RequestError as error:
            await _refused(request, error)(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.to_json(), error.status, error.headers)


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(told.to_json(), error.status_code, error.headers)


def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse(RequestError(500, f"{type(error).__name__}").to_json(), 500)

"""OpenAI's routes, and those by which lm-evaluation-harness takes a server's tokenizer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from smf_jax.serving.answers import Answering, Labels, submit
from smf_jax.serving.completion_requests import CompletionRequest, RequestReader
from smf_jax.serving.errors import RequestError
from smf_jax.serving.fields import Fields, encodable, parse_object
from smf_jax.serving.guard import read_body, until_gone
from smf_jax.serving.openai_json import Writer
from smf_jax.serving.patch_names import UnknownModel
from smf_jax.serving.served_models import PatchSet, ServedModels
from smf_jax.serving.worker import Worker

Result = TypeVar("Result")
_END = "data: [DONE]\n\n"


class OpenAIRoutes:
    """The routes of one server."""

    def __init__(
        self, models: ServedModels, worker: Worker, max_tokens: int, max_body: int
    ) -> None:
        self._models, self._worker, self._max_body = models, worker, max_body
        base = models.base
        self._tokenizer, self._labels = base.tokenizer, Labels(base.tokenizer)
        self._positions = base.config.max_positions
        self._reader = RequestReader(
            base.tokenizer, base.config.vocabulary, self._positions, max_tokens
        )

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{name}", self.show_model, methods=["GET"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info, methods=["GET"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]

    async def list_models(self, request: Request) -> Response:
        """The sets of patches that have names of their own; others are asked for as well."""
        names = await asyncio.to_thread(self._models.names)
        return JSONResponse({"object": "list", "data": [_model(name) for name in names]})

    async def show_model(self, request: Request) -> Response:
        """One set of patches, by any name that stands for one."""
        name = request.path_params["name"]
        await find_set(self._models, name)
        return JSONResponse(_model(name))

    async def complete(self, request: Request) -> Response:
        """Texts, or tokens, that are gone on with."""
        return await self._answer(request, self._reader.completion, is_chat=False)

    async def chat(self, request: Request) -> Response:
        """A conversation, rendered by the tokenizer's template."""
        return await self._answer(request, self._reader.chat, is_chat=True)

    async def _answer(
        self,
        request: Request,
        read: Callable[[dict[str, Any]], CompletionRequest],
        is_chat: bool,
    ) -> Response:
        values = parse_object(await read_body(request, self._max_body))
        told = await asyncio.to_thread(read, values)
        patch_set = await find_set(self._models, told.model)
        answering = Answering(told, patch_set, self._tokenizer)
        name = f"smf-{patch_set.fingerprint[:16]}"
        writer = Writer(answering, is_chat, name, self._labels, self._tokenizer)
        submit(self._worker, answering.jobs)
        if told.stream:
            events = _events(request, answering, writer)
            return StreamingResponse(events, media_type="text/event-stream")
        try:
            answers = await unless_gone(request, answering.all())
        finally:
            answering.leave()
        return JSONResponse(writer.whole(answers))

    async def tokenizer_info(self, request: Request) -> Response:
        """What a client needs to know of the tokenizer."""
        tokenizer = self._tokenizer
        begin = [tokenizer.backend.id_to_token(i) for i in tokenizer.begin]
        chat = None if tokenizer.chat is None else tokenizer.chat.text or None
        told = {"bos_token": begin[0] if begin else None, "chat_template": chat}
        end = tokenizer.backend.id_to_token(tokenizer.eos)
        return JSONResponse({**told, "eos_token": end, "max_length": self._positions})

    async def tokenize(self, request: Request) -> Response:
        """The tokens of a text."""
        fields = Fields(parse_object(await read_body(request, self._max_body)))
        text, special = fields.take("prompt"), fields.flag("add_special_tokens")
        fields.ignore("model")
        fields.end()
        if not isinstance(text, str):
            raise RequestError(400, "prompt: expected a text", "prompt")
        encode = self._tokenizer.encode_prompt if special else self._tokenizer.encode
        ids = await asyncio.to_thread(encode, encodable("prompt", text))
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": self._positions})

    async def detokenize(self, request: Request) -> Response:
        """The text of tokens."""
        fields = Fields(parse_object(await read_body(request, self._max_body)))
        ids = fields.take("tokens")
        fields.ignore("model")
        fields.end()
        size = self._tokenizer.size
        fits = isinstance(ids, list) and all(type(i) is int and 0 <= i < size for i in ids)
        if not fits:
            raise RequestError(400, f"tokens: expected a list of 0 to {size - 1}", "tokens")
        return JSONResponse({"prompt": self._tokenizer.decode(ids)})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "smf_jax"}


async def find_set(models: ServedModels, name: str) -> PatchSet:
    """The set of patches of a name; a `RequestError` if there is none."""
    try:
        return await asyncio.to_thread(models.find, name)
    except UnknownModel as error:
        raise RequestError(404, str(error), "model", "model_not_found") from None
    except ValueError as error:
        raise RequestError(400, f"model={name[:80]!r}: {error}", "model") from None


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of some work, which is given up once the client has gone."""
    doing, gone = asyncio.ensure_future(work), asyncio.create_task(until_gone(request))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise RequestError(499, "the client has gone")
        return await doing
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _events(request: Request, answering: Answering, writer: Writer) -> AsyncIterator[str]:
    """A stream of server-sent events."""
    pieces = answering.pieces()
    try:
        if writer.is_chat:
            for index in range(len(answering.answers)):
                yield _event(writer.opening(index))
        while (piece := await unless_gone(request, anext(pieces, None))) is not None:
            if piece.text or piece.tokens or piece.reason:
                yield _event(writer.piece(piece))
        if answering.request.usage:
            yield _event(writer.counts())
        yield _END
    except RequestError as error:  # the status is sent already
        if error.status != 499:
            yield _event(error.to_json())
    finally:
        answering.leave()


def _event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told, ensure_ascii=False, allow_nan=False)}\n\n"

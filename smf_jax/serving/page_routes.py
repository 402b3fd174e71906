"""The page of a server, and what it asks for: lessons, answers side by side, teaching."""

from __future__ import annotations

import asyncio
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smf_jax.evaluation.probes.open import END, PROMPT
from smf_jax.serving.answers import Answering, Mailbox, submit
from smf_jax.serving.class_room import ClassRoom
from smf_jax.serving.completion_requests import CompletionRequest
from smf_jax.serving.errors import RequestError
from smf_jax.serving.fields import Fields, parse_object
from smf_jax.serving.guard import read_body
from smf_jax.serving.jobs import ReadWeights, Tracing
from smf_jax.serving.openai_routes import find_set, unless_gone
from smf_jax.serving.patch_names import LONGEST_NAME
from smf_jax.serving.served_models import PatchSet, ServedModels
from smf_jax.serving.worker import Worker
from smf_jax.taught.asking import Answer
from smf_jax.taught.record import TaughtFact

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
OPEN_PATHS = frozenset(_FILES)  # they hold nothing of the model, and need no token
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
_POLICY += "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_MOST_MODELS = 8  # asked at once
_MOST_TEXT = 2000  # characters of a question
_ANSWER_TOKENS = 32


class PageRoutes:
    """The routes of one server."""

    def __init__(
        self,
        models: ServedModels,
        worker: Worker,
        room: ClassRoom | None,
        max_tokens: int,
        max_body: int,
    ) -> None:
        """Without a ``room`` nothing is taught or taken back."""
        self._models, self._worker, self._room = models, worker, room
        self._positions = models.base.config.max_positions
        self._max_tokens, self._max_body = min(max_tokens, self._positions - 1), max_body

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            *(Route(path, self.file, methods=["GET"]) for path in _FILES),
            Route("/api/state", self.state, methods=["GET"]),
            Route("/api/ask", self.ask, methods=["POST"]),
            Route("/api/teach", self.teach, methods=["POST"]),
            Route("/api/forget", self.forget, methods=["POST"]),
        ]

    async def file(self, request: Request) -> Response:
        """One of the page's three files."""
        name, kind = _FILES[request.url.path]
        content = (resources.files("smf_jax.serving") / "page" / name).read_bytes()
        return Response(content, media_type=kind, headers={"Content-Security-Policy": _POLICY})

    async def state(self, request: Request) -> Response:
        """The model, its patches with the facts of each, and what is being taught."""
        record, needs = await asyncio.to_thread(self._models.described)
        patches = [
            {
                "name": entry.name,
                "lesson": entry.lesson,
                "rows": entry.rows,
                "needs": of_patch,
                "facts": [_fact(fact) for fact in record.facts_of(entry)],
            }
            for entry, of_patch in zip(record.patches, needs, strict=True)
        ]
        told: dict[str, Any] = {"model": record.model["path"], "patches": patches}
        told |= {"models": await asyncio.to_thread(self._models.names)}
        told |= {"room": None if self._room is None else self._room.status()}
        return JSONResponse(told)

    async def ask(self, request: Request) -> Response:
        """What each of some sets of patches answers to a question, and where it was read."""
        fields = Fields(parse_object(await read_body(request, self._max_body)))
        question = fields.text("question", _MOST_TEXT)
        names = fields.texts("models", _MOST_MODELS, LONGEST_NAME)
        steps = fields.whole("max_tokens", _ANSWER_TOKENS, 1, self._max_tokens)
        fields.end()
        if not names:
            raise RequestError(400, "models=[]: expected at least one", "models")
        tokenizer = self._models.base.tokenizer
        ids = tokenizer.encode_prompt(PROMPT.format(question))
        if len(ids) + steps > self._positions:
            raise RequestError(
                400,
                f"the question takes {len(ids)} tokens and its answer up to {steps}, more than the "
                f"model's {self._positions}: ask in fewer words",
                "question",
            )
        sets = [await find_set(self._models, name) for name in names]
        told = CompletionRequest("", (ids,), steps, 0.0, 0, 1, (END,), None, False, False, False)
        asked = [Answering(told, each, tokenizer) for each in sets]
        try:
            submit(self._worker, [job for each in asked for job in each.jobs])
            found = asyncio.gather(*map(self._traced, sets, asked))
            answers = await unless_gone(request, found)
        finally:
            for each in asked:
                each.leave()
        pairs = zip(names, sets, answers, strict=True)
        listed = [_answer(name, each, answer, question) for name, each, answer in pairs]
        return JSONResponse({"answers": listed})

    async def _traced(self, patch_set: PatchSet, asked: Answering) -> tuple[str, ReadWeights]:
        """An answer, and where the tokens of it and of its prompt were read."""
        (answer,) = await asked.all()
        text, mail = answer.text.strip(), Mailbox()
        ids = [*answer.prompt, *self._models.base.tokenizer.encode(f" {text}")]
        submit(self._worker, [Tracing(patch_set, ids[: self._positions], mail.of(0))])
        _, read = await mail.next()
        assert isinstance(read, ReadWeights)
        return text, read

    async def teach(self, request: Request) -> Response:
        """Begins to teach a fact; `state` tells when it is done."""
        room, fields = await self._lesson(request)
        question, answer = fields.text("question", _MOST_TEXT), fields.text("answer", _MOST_TEXT)
        fields.end()
        room.teach(question.strip(), answer.strip())
        return JSONResponse(room.status(), 202)

    async def forget(self, request: Request) -> Response:
        """Begins to take a patch back; `state` tells when it is done."""
        room, fields = await self._lesson(request)
        patch = fields.text("patch", _MOST_TEXT)
        fields.end()
        record, _ = await asyncio.to_thread(self._models.described)
        if patch not in [entry.name for entry in record.patches]:
            raise RequestError(404, f"patch={patch[:80]!r}: no such patch", "patch")
        room.take_back(patch)
        return JSONResponse(room.status(), 202)

    async def _lesson(self, request: Request) -> tuple[ClassRoom, Fields]:
        body = await read_body(request, self._max_body)
        if self._room is None:
            raise RequestError(403, "this server runs with --read_only: nothing is taught here")
        return self._room, Fields(parse_object(body))


def _answer(
    name: str, patch_set: PatchSet, answer: tuple[str, ReadWeights], question: str
) -> dict[str, Any]:
    text, read = answer
    shares = dict(zip(patch_set.names, read.patches, strict=True))
    largest = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
    found = Answer(question, text, None, (), read.written, largest)
    told = {"model": name, "patches_on": list(patch_set.names), "said": text}
    told |= {"written": read.written, "patches": largest}
    return {**told, "taught_by": found.taught_by}


def _fact(fact: TaughtFact) -> dict[str, Any]:
    return {
        "asked": fact.question,
        "expected": list(fact.answers),
        "status": fact.status,
        "before": list(dict.fromkeys(said.said for said in fact.before)),
        "after": list(dict.fromkeys(said.said for said in fact.after)),
    }

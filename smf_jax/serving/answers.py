"""From a request to jobs, and from what they tell to the answers of a request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.serving.completion_requests import CompletionRequest
from smf_jax.serving.errors import RequestError
from smf_jax.serving.jobs import (
    Done,
    Event,
    Failed,
    Generation,
    Job,
    Scored,
    Scoring,
    Token,
    Tokens,
)
from smf_jax.serving.served_models import PatchSet
from smf_jax.serving.text_stream import TextStream
from smf_jax.serving.worker import Busy, Worker


class Labels:
    """A name for each token, as its text where no other has it too."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, token: int) -> str:
        """The name of a token."""
        names = self._names
        return names[token] if token < len(names) else f"<{token}>"

    @cached_property
    def _names(self) -> list[str]:
        backend, size = self._tokenizer.backend, self._tokenizer.size
        texts = backend.decode_batch([[i] for i in range(size)], skip_special_tokens=False)
        times = Counter(texts)
        return [
            text if times[text] == 1 and text else backend.id_to_token(i) or f"<{i}>"
            for i, text in enumerate(texts)
        ]


class Piece(NamedTuple):
    """What is new of an answer."""

    answer: int  # its number in the request
    text: str
    tokens: list[Token]
    offsets: list[int]  # of the tokens in the text of the answer
    reason: str | None  # why it ends here: ``stop`` or ``length``; ``None`` if it goes on


@dataclass
class Answer:
    """An answer to one prompt, without it."""

    prompt: Ids
    scored: list[Token] | None = None  # of the prompt, from its second token on
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    reason: str = "length"


class Mailbox:
    """What jobs tell, for a coroutine to read in the order in which it came."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def of(self, index: int) -> Callable[[Event], None]:
        """What the job of a number is to call, from any thread."""

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        return tell

    async def next(self) -> tuple[int, Event]:
        """The next event; a `RequestError` of one that tells of a failure."""
        index, event = await self._queue.get()
        if isinstance(event, Failed):
            raise RequestError(500, event.message)
        return index, event


def submit(worker: Worker, jobs: Sequence[Job]) -> None:
    """Puts jobs in line; a `RequestError` if there is no room."""
    if len(jobs) > worker.capacity:
        raise RequestError(400, f"{len(jobs)} prompts in a request, at most {worker.capacity}")
    try:
        worker.submit(jobs)
    except Busy as busy:
        raise RequestError(429, f"{busy}: try again", headers={"Retry-After": "1"}) from None


class Answering:
    """One request that is being answered; in a running event loop."""

    def __init__(
        self, request: CompletionRequest, patch_set: PatchSet, tokenizer: Tokenizer
    ) -> None:
        """Makes the jobs, which `submit` puts in line."""
        self.request, self._mail = request, Mailbox()
        prompts = [ids for ids in request.prompts for _ in range(request.choices)]
        self.answers = [Answer(ids) for ids in prompts]
        self.jobs: list[Job] = []
        self._generations: dict[int, Generation] = {}
        others = request.others or 0
        for index, ids in enumerate(prompts):
            tell = self._mail.of(index)
            if request.echo and request.others is not None and len(ids) > 1:
                self.jobs.append(Scoring(patch_set, ids, tell, others))
            if request.max_tokens:
                seed = (request.seed + index) % 2**32
                limits = {"limit": request.max_tokens, "temperature": request.temperature}
                job = Generation(patch_set, ids, tell, others, seed=seed, **limits)
                self._generations[index] = job
                self.jobs.append(job)
        self._streams = {
            index: TextStream(tokenizer, prompts[index], request.stop)
            for index in self._generations
        }

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.request.prompts))

    @property
    def answer_tokens(self) -> int:
        """Tokens of all answers so far."""
        return sum(len(answer.tokens) for answer in self.answers)

    def leave(self) -> None:
        """Nobody waits for the answers any more."""
        for job in self.jobs:
            job.gone = True

    async def pieces(self) -> AsyncIterator[Piece]:
        """What was generated, as it comes; it also stands in `answers`."""
        left, scoring = set(self._generations), len(self.jobs) - len(self._generations)
        while left or scoring:
            index, event = await self._mail.next()
            if isinstance(event, Scored):
                self.answers[index].scored = event.tokens
                scoring -= 1
            elif isinstance(event, Tokens | Done) and index in left:
                piece = self._piece(index, event)
                if piece.reason is not None:
                    left.remove(index)
                yield piece

    async def all(self) -> list[Answer]:
        """The answers once they are whole."""
        async for _ in self.pieces():
            pass
        return self.answers

    def _piece(self, index: int, event: Tokens | Done) -> Piece:
        stream, answer = self._streams[index], self.answers[index]
        text, tokens, offsets, reason = "", [], [], None
        for token in event.tokens if isinstance(event, Tokens) else ():
            if stream.is_over:
                break
            offset = stream.length
            text += stream.push(token.id)
            # A token behind the stop text, or the whole of it, is none of the answer's.
            if not stream.is_over or offset < stream.length:
                tokens.append(token)
                offsets.append(offset)
        if isinstance(event, Done):
            text, reason = text + stream.finish(), event.reason
            if event.end is not None and not stream.is_over:
                # Without text, as OpenAI's interface has it: readers of log-probabilities count
                # on a token for each that was generated.
                tokens.append(event.end)
                offsets.append(stream.length)
        if stream.is_over:
            reason = "stop"
            self._generations[index].gone = True
        answer.text += text
        answer.tokens += tokens
        answer.offsets += offsets
        answer.reason = reason or answer.reason
        return Piece(index, text, tokens, offsets, reason)

"""Answers in the JSON of OpenAI's interfaces."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.serving.answers import Answer, Answering, Labels, Piece
from smf_jax.serving.jobs import Token
from smf_jax.serving.text_stream import TextStream


@dataclass(frozen=True)
class Writer:
    """Writes the answers of one request."""

    answering: Answering
    is_chat: bool
    fingerprint: str  # of the set of patches
    labels: Labels
    tokenizer: Tokenizer
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        write = self._chat_choice if self.is_chat else self._choice
        kind = "chat.completion" if self.is_chat else "text_completion"
        choices = [write(index, answer) for index, answer in enumerate(answers)]
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    def opening(self, index: int) -> dict[str, Any]:
        """The first event of a streamed chat answer."""
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}}
        return self._chunk({**choice, "logprobs": None, "finish_reason": None})

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event of a stream."""
        wanted = self.answering.request.others is not None
        end = {"index": piece.answer, "finish_reason": piece.reason, "logprobs": None}
        if self.is_chat:
            if wanted:
                end["logprobs"] = {"content": [self._chat_token(token) for token in piece.tokens]}
            return self._chunk({**end, "delta": {"content": piece.text} if piece.text else {}})
        if wanted:
            end["logprobs"] = self._logprobs(piece.tokens, piece.offsets)
        return self._chunk({**end, "text": piece.text})

    def counts(self) -> dict[str, Any]:
        """The last event of a stream that ends with counts."""
        return {**self._chunk(None), "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """How many tokens there were."""
        prompt, answer = self.answering.prompt_tokens, self.answering.answer_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        told = {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created}
        model = self.answering.request.model
        return {**told, "model": model, "system_fingerprint": self.fingerprint}

    def _chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": [] if choice is None else [choice]}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        request, text = self.answering.request, answer.text
        tokens: list[Token | None] = list(answer.tokens)
        offsets, ids = list(answer.offsets), [token.id for token in answer.tokens]
        if request.echo:
            before, starts = self._prompt(answer.prompt)
            text = before + text
            offsets = starts + [len(before) + offset for offset in offsets]
            tokens = [None, *(answer.scored or []), *tokens]
            ids = answer.prompt + ids
        told = None if request.others is None else self._logprobs(tokens, offsets, ids)
        return {"index": index, "text": text, "logprobs": told, "finish_reason": answer.reason}

    def _prompt(self, ids: Ids) -> tuple[str, list[int]]:
        """The text of a prompt, and where each token begins there."""
        stream, starts, text = TextStream(self.tokenizer, (), ()), [], ""
        for token in ids:
            starts.append(stream.length)
            text += stream.push(token)
        return text + stream.finish(), starts

    def _logprobs(
        self,
        tokens: Sequence[Token | None],
        offsets: Sequence[int],
        ids: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        ids = [token.id for token in tokens if token is not None] if ids is None else ids
        return {
            "tokens": [self.labels(each) for each in ids],
            "token_logprobs": [None if t is None else t.log_probability for t in tokens],
            "top_logprobs": [
                None if t is None else {self.labels(other): log for other, log in t.others}
                for t in tokens
            ],
            "text_offset": list(offsets),
        }

    def _chat_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        told = None
        if self.answering.request.others is not None:
            told = {"content": [self._chat_token(token) for token in answer.tokens]}
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        end = {"logprobs": told, "finish_reason": answer.reason}
        return {"index": index, "message": message, **end}

    def _chat_token(self, token: Token) -> dict[str, Any]:
        others = [self._chat_label(other, log) for other, log in token.others]
        return {**self._chat_label(token.id, token.log_probability), "top_logprobs": others}

    def _chat_label(self, token: int, log: float) -> dict[str, Any]:
        label = self.labels(token)
        return {"token": label, "logprob": log, "bytes": list(label.encode())}

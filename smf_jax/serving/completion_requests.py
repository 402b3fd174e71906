"""Requests of OpenAI's two interfaces as prompts of one kind."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.serving.errors import RequestError, wrong
from smf_jax.serving.fields import Fields, encodable
from smf_jax.serving.patch_names import LONGEST_NAME
from smf_jax.serving.worker import MOST_OTHERS

_USUAL_TOKENS = 16  # of an answer where a request does not say, as in OpenAI's first interface
_USUAL_CHAT_TOKENS = 256
_MOST_PROMPTS = 128
_MOST_CHOICES = 8
_MOST_STOPS = 16
# Fields that change nothing here where they hold such a value.
_UNSUPPORTED: dict[str, tuple] = {
    "top_p": (1, 1.0),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
}


@dataclass(frozen=True)
class CompletionRequest:
    """What is to be answered, by which set of patches, and how."""

    model: str
    prompts: tuple[Ids, ...]
    max_tokens: int  # 0 only where a prompt is echoed
    temperature: float
    seed: int
    choices: int  # answers to each prompt
    stop: tuple[str, ...]
    others: int | None  # alternatives of each token; ``None``: no log-probabilities are wanted
    echo: bool  # answers begin with their prompts
    stream: bool
    usage: bool  # a stream ends with counts of tokens


class RequestReader:
    """Reads requests for one tokenizer and model."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, positions: int, most: int) -> None:
        """``most`` tokens of an answer at most."""
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._positions, self._most = positions, min(most, positions - 1)

    def completion(self, values: dict[str, Any]) -> CompletionRequest:
        """Of ``/v1/completions``; a `RequestError` names the field amiss."""
        fields = Fields(values)
        prompts = self._prompts(fields.take("prompt"))
        echo = fields.flag("echo")
        others = fields.whole("logprobs", -1, 0, MOST_OTHERS)
        tokens = fields.whole("max_tokens", _USUAL_TOKENS, 0 if echo else 1, self._most)
        found = self._common(
            fields, prompts, tokens, None if others < 0 else others, echo, "prompt"
        )
        if found.stream and found.echo:
            raise RequestError(400, "echo with stream: leave one of them out", "echo")
        return found

    def chat(self, values: dict[str, Any]) -> CompletionRequest:
        """Of ``/v1/chat/completions``; a `RequestError` names the field amiss."""
        fields = Fields(values)
        ids = self._conversation(fields.take("messages"))
        wants = fields.flag("logprobs")
        others = fields.whole("top_logprobs", 0, 0, MOST_OTHERS)
        if others and not wants:
            raise RequestError(400, "top_logprobs needs logprobs=true", "top_logprobs")
        name = "max_completion_tokens" if fields.has("max_completion_tokens") else "max_tokens"
        usual = max(1, min(_USUAL_CHAT_TOKENS, self._most, self._positions - len(ids)))
        tokens = fields.whole(name, usual, 1, self._most)
        return self._common(fields, (ids,), tokens, others if wants else None, False, "messages")

    def _common(
        self,
        fields: Fields,
        prompts: tuple[Ids, ...],
        tokens: int,
        others: int | None,
        echo: bool,
        blamed: str,
    ) -> CompletionRequest:
        options = fields.take("stream_options") or {}
        if not isinstance(options, dict) or options.keys() - {
            "include_usage",
            "include_obfuscation",
        }:
            raise wrong("stream_options", options, '{"include_usage": true}')
        fields.ignore("user", "metadata", "store", "service_tier", "safety_identifier")
        fields.require_usual(_UNSUPPORTED)
        found = CompletionRequest(
            model=fields.text("model", LONGEST_NAME),
            prompts=prompts,
            max_tokens=tokens,
            temperature=fields.number("temperature", 0.0, 0.0, 100.0),
            seed=fields.whole("seed", secrets.randbits(32), -(2**63), 2**63 - 1) % 2**32,
            choices=fields.whole("n", 1, 1, _MOST_CHOICES),
            stop=fields.texts("stop", _MOST_STOPS),
            others=others,
            echo=echo,
            stream=fields.flag("stream"),
            usage=options.get("include_usage") is True,
        )
        fields.end()
        for number, ids in enumerate(prompts):
            if len(ids) + tokens > self._positions:
                raise RequestError(
                    400,
                    f"prompt {number} takes {len(ids)} tokens and the answer up to {tokens}, more "
                    f"than the model's {self._positions}: shorten one of the two",
                    blamed,
                    "context_length_exceeded",
                )
        return found

    def _prompts(self, value: Any) -> tuple[Ids, ...]:
        """A text, tokens, or a list of either."""
        listed = value if isinstance(value, list) and not _are_ids(value) else [value]
        if not listed or len(listed) > _MOST_PROMPTS:
            raise wrong("prompt", value, f"1 to {_MOST_PROMPTS} prompts")
        return tuple(self._prompt(each) for each in listed)

    def _prompt(self, value: Any) -> Ids:
        if isinstance(value, str):
            ids = self._tokenizer.encode_prompt(encodable("prompt", value))
        elif isinstance(value, list) and _are_ids(value):
            ids = value
            if max(ids) >= self._vocabulary or min(ids) < 0:
                raise wrong("prompt", ids, f"tokens from 0 to {self._vocabulary - 1}")
        else:
            raise wrong("prompt", value, "a text, a list of tokens, or a list of either")
        if not ids:
            raise wrong("prompt", value, "at least one token")
        return ids

    def _conversation(self, value: Any) -> Ids:
        if not isinstance(value, list) or not value or len(value) > 1000:
            raise wrong("messages", value, "a list of messages, 1000 at most")
        messages = [self._message(each) for each in value]
        try:
            return self._tokenizer.encode_chat(messages)
        except ValueError as error:
            raise RequestError(400, f"messages: {error}", "messages") from None

    def _message(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or not isinstance(value.get("role"), str):
            raise wrong("messages", value, "messages with role and content")
        content = value.get("content")
        if isinstance(content, list):  # parts, of which only text is read
            if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
                raise wrong("messages", content, "text: other parts are not read here")
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str) or value.keys() - {"role", "content", "name"}:
            raise wrong("messages", value, "messages with role and content, a text")
        return {
            "role": encodable("messages", value["role"]),
            "content": encodable("messages", content),
        }


def _are_ids(value: list) -> bool:
    return bool(value) and all(type(each) is int for each in value)

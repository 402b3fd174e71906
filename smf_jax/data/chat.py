"""Conversations as text, by the chat template of a tokenizer; jinja2 is asked for only here."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """The template that a model's conversations were rendered by."""

    text: str  # in Jinja's language, as ``chat_template`` of ``tokenizer_config.json``
    tokens: tuple[tuple[str, str], ...] = ()  # special tokens by name, such as ``bos_token``

    def render(self, messages: Sequence[Message], open_answer: bool = True) -> str:
        """A conversation as the text that the model is given, special tokens and all.

        Messages have ``role`` and ``content``, the oldest first; with ``open_answer`` the text ends
        where the answer begins. A ValueError if jinja2 is missing, or the template refuses them.
        """
        try:
            from jinja2 import TemplateError, sandbox  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                "a chat template needs jinja2, which is not installed: pip install 'jinja2>=3.1'"
            ) from error

        def refuse(message: str) -> None:
            raise TemplateError(message)

        # The settings and names that transformers gives to templates.
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        now = datetime.datetime.now
        environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
        environment.globals["raise_exception"] = refuse
        try:
            return environment.from_string(self.text).render(
                messages=list(messages), add_generation_prompt=open_answer, **dict(self.tokens)
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the chat template does not take these messages: {error}") from error


def parse_template(stored: Any, tokens: Mapping[str, str]) -> ChatTemplate | None:
    """The template in a tokenizer's ``chat_template``: a text, or the default one of several."""
    if isinstance(stored, list):
        named = {each["name"]: each["template"] for each in stored if isinstance(each, dict)}
        stored = named.get("default")
    if not isinstance(stored, str) or not stored:
        return None
    return ChatTemplate(stored, tuple(sorted(tokens.items())))


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

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
    """The template that a model's conversations were rendered by.

    Attributes:
        text: In Jinja's language, as ``chat_template`` of ``tokenizer_config.json``.
        tokens: Names and texts of the special tokens that it may use, such as ``bos_token``.
    """

    text: str
    tokens: tuple[tuple[str, str], ...] = ()

    def render(self, messages: Sequence[Message], open_answer: bool = True) -> str:
        """A conversation as the text that the model is given.

        Args:
            messages: Each with ``role`` and ``content``, the oldest first.
            open_answer: Whether the text ends where the model's answer begins.

        Returns:
            The text; special tokens, the begin token among them, stand in it.

        Raises:
            ValueError: If jinja2 is not installed, or the template refuses the messages.
        """
        try:
            from jinja2 import TemplateError  # pyright: ignore[reportMissingImports]
            from jinja2.sandbox import (  # pyright: ignore[reportMissingImports]
                ImmutableSandboxedEnvironment,
            )
        except ImportError as error:
            raise ValueError(
                "a chat template needs jinja2, which is not installed: pip install 'jinja2>=3.1'"
            ) from error
        # The settings and names that transformers gives to templates.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            return environment.from_string(self.text).render(
                messages=list(messages), add_generation_prompt=open_answer, **dict(self.tokens)
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the chat template does not take these messages: {error}") from error


def parse_template(stored: Any, tokens: Mapping[str, str]) -> ChatTemplate | None:
    """The template in a tokenizer's files: one text, or several by name, of which the default.

    Args:
        stored: The value of ``chat_template``.
        tokens: Texts of special tokens by name.
    """
    if isinstance(stored, list):
        named = {each["name"]: each["template"] for each in stored if isinstance(each, dict)}
        stored = named.get("default")
    if not isinstance(stored, str) or not stored:
        return None
    return ChatTemplate(stored, tuple(sorted(tokens.items())))


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError  # pyright: ignore[reportMissingImports]

    raise TemplateError(message)

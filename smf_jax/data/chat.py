"""Conversations as text, by the chat template of a tokenizer; jinja2 is asked for only here."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

Message = Mapping[str, Any]

DEFAULT, _WITH_TOOLS = "default", "tool_use"
TEMPLATE_FILE, _FURTHER_FILES = "chat_template.jinja", "additional_chat_templates/*.jinja"
# What `ChatTemplate.render` itself gives to a template.
_OWN = ("messages", "add_generation_prompt")
# Names of a message's reasoning; templates read the first two.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Stands behind a message that is to go on: what the template says after it is cut off.
_GOES_ON = "CONTINUE_FINAL_MESSAGE_TAG "
_EXAMPLE = "'{\"enable_thinking\": false}'"


@dataclass(frozen=True)
class ChatTemplate:
    """The template that a model's conversations were rendered by."""

    text: str  # in Jinja's language, the default one; empty if all are named
    tokens: tuple[tuple[str, str], ...] = ()  # special tokens by name, such as ``bos_token``
    named: tuple[tuple[str, str], ...] = ()  # further templates by name, such as ``tool_use``
    # What a template is given beside messages: ``enable_thinking``, ``tools``, ``documents``, …
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def texts(self) -> dict[str, str]:
        """All templates by name."""
        return {**({DEFAULT: self.text} if self.text else {}), **dict(self.named)}

    def select(self, name: str = "") -> str:
        """The template of a name; without one ``tool_use`` if there are tools, else the default.

        A ValueError lists the names if it is not among them.
        """
        texts = self.texts
        tools = self.arguments.get("tools") is not None and _WITH_TOOLS in texts
        name = name or (_WITH_TOOLS if tools else DEFAULT)
        if name not in texts:
            raise ValueError(f"no chat template is named {name!r}, only {', '.join(sorted(texts))}")
        return texts[name]

    def render(
        self,
        messages: Sequence[Message],
        open_answer: bool = True,
        go_on: bool = False,
        name: str = "",
    ) -> str:
        """A conversation as the text that the model is given, special tokens and all.

        Messages have ``role`` and ``content``, the oldest first; with ``open_answer`` the text ends
        where the answer begins, with ``go_on`` where the last message ends; ``name`` is as in
        `select`. A ValueError if jinja2 or the template is missing, or it refuses the messages.
        """
        if not messages:
            raise ValueError("no message to render; give at least one")
        text, said = self.select(name), [_plain(message) for message in messages]
        if go_on:
            said[-1]["content"] = said[-1].get("content", "") + _GOES_ON
        given = {"tools": None, "documents": None, **dict(self.tokens), **self.arguments}
        try:
            text = _compiled(text).render(**given, messages=said, add_generation_prompt=open_answer)
        except ImportError as error:
            raise ValueError(
                "a chat template needs jinja2, which is not installed: pip install 'jinja2>=3.1'"
            ) from error
        except Exception as error:  # the code of strangers, which may raise anything
            raise ValueError(f"the chat template does not take these messages: {error}") from error
        if not go_on:
            return text
        before, found, behind = text.rpartition(_GOES_ON.strip())
        if not found:
            raise ValueError("the chat template leaves out the last message, which is to go on")
        # A template that strips what is said has taken the mark's space too.
        return before if behind.startswith(" ") else before.rstrip()


def read_templates(directory: Path, stored: Any, tokens: Mapping[str, str]) -> ChatTemplate | None:
    """The templates of a tokenizer, if there are any.

    Files of their own come before ``stored``, the ``chat_template`` of a tokenizer's configuration:
    a text, several as a list of ``name`` and ``template``, or by name; others are a ValueError.
    """
    files = {file.stem: file for file in sorted(directory.glob(_FURTHER_FILES))}
    if (directory / TEMPLATE_FILE).is_file():
        files[DEFAULT] = directory / TEMPLATE_FILE
    texts: Any = {name: file.read_text(encoding="utf-8-sig") for name, file in files.items()}
    if not texts:
        texts = {DEFAULT: stored} if isinstance(stored, str) else stored or {}
        if isinstance(texts, list) and all(isinstance(each, dict) for each in texts):
            texts = {each.get("name"): each.get("template") for each in texts}
    given = [*texts, *texts.values()] if isinstance(texts, dict) else [None]
    if not isinstance(texts, dict) or not all(isinstance(each, str) for each in given):
        raise ValueError(
            f"{directory / 'tokenizer_config.json'}: chat_template={str(stored)[:80]}: expected a "
            "text, or texts by name"
        )
    text = texts.pop(DEFAULT, "")
    found = ChatTemplate(text, tuple(sorted(tokens.items())), tuple(sorted(texts.items())))
    return found if found.texts else None


def parse_arguments(text: str) -> dict[str, Any]:
    """What a template is given beside messages, from a JSON object; empty for an empty text.

    A ValueError tells what is amiss.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"no JSON ({error}); give an object, as in {_EXAMPLE}") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, as in {_EXAMPLE}")
    if own := sorted(found.keys() & set(_OWN)):
        raise ValueError(f"{', '.join(own)} cannot be given: each conversation brings its own")
    for name in ("tools", "documents"):
        listed = found.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ValueError(f"{name}: expected a list of objects")
    return found


def _plain(message: Message) -> dict[str, Any]:
    """A message as transformers gives it: nothing that is null, reasoning under all its names."""
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[key] for key in _REASONING if key in given), None)
    if reasoning is None:
        return given
    return {"thinking": reasoning, **given, "reasoning_content": reasoning}


@lru_cache
def _compiled(text: str) -> Any:
    """A template with the settings, filters and names that transformers gives to it."""
    from jinja2 import TemplateError, ext, nodes, sandbox  # pyright: ignore

    class Generation(ext.Extension):
        """Marks what the assistant says, which is rendered like all else."""

        tags: set[str] = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

        def _said(self, caller: Any) -> str:
            return caller()

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    now = datetime.datetime.now
    environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(text)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **how)

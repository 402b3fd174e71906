"""Conversations that records hold, as lists of messages: their turns, and the text of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Turn = tuple[str, str]  # the role and the words, without spaces around them
ANSWERING = "assistant"


def turns_of(value: Any) -> tuple[Turn, ...]:
    """The turns of a list of messages with ``role`` and ``content``; none if a value is no such.

    One message, and the columns that tensorflow-datasets makes of a list, will do. A ValueError if
    a message holds anything but text.
    """
    if _is_message(value):
        single = isinstance(value["role"], str | bytes)
        columns = ([value[name]] if single else value[name] for name in ("role", "content"))
        value = [{"role": role, "content": said} for role, said in zip(*columns, strict=True)]
    if not isinstance(value, Sequence) or not all(map(_is_message, value)):
        return ()
    return tuple((_words(each["role"]), _words(each["content"])) for each in value)


def say_turns(turns: Sequence[Turn]) -> str:
    """Turns as one text: the words alone of a single one, else a line ``Role: words`` for each."""
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role.capitalize()}: {words}" for role, words in turns)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and {"role", "content"} <= value.keys()


def _words(content: Any) -> str:
    """The text of a message, or of the parts that it is given in."""
    if isinstance(content, bytes):
        content = content.decode("utf-8")
    if isinstance(content, str):
        return content.strip()
    parts = list(content) if isinstance(content, Iterable) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise ValueError(f"a message holds {content!r}: expected text")
    return "".join(part["text"] for part in parts).strip()

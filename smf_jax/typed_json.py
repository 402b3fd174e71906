"""JSON that others wrote, asked for by key and type: a refusal names file, key and value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")
_MOST = {int: 2**31 - 1, float: 1e38}  # what ids, sizes and float32 can hold
_WORDS = {bool: "true or false", str: "a text", dict: "an object", list: "a list"}
_WORDS |= {int: "a whole number", float: "a number"}


class JsonObject:
    """A JSON object; every method raises a ValueError for a value of another type or range."""

    def __init__(self, values: Any, place: str = "", prefix: str = "") -> None:
        """Takes parsed JSON; ``place`` is its file, ``prefix`` what its keys stand under."""
        self.place, self._prefix = place, prefix
        if not isinstance(values, Mapping):
            raise self.error(f"expected a JSON object, found {type(values).__name__}")
        self.values: Mapping[str, Any] = values

    def error(self, text: str) -> ValueError:
        """An error that says where."""
        return ValueError(f"{self.place}: {text}" if self.place else text)

    def require(self, fits: bool, key: str, expected: str) -> None:
        """Refuses the value at a key unless it fits."""
        if not fits:
            found = f"{self.values[key]!r:.80}" if key in self.values else "(absent)"
            raise self.error(f"{self._prefix}{key}={found}: expected {expected}")

    def need(
        self, key: str, kind: type[T], default: T | None = None, least: Any = None, most: Any = None
    ) -> T:
        """The value at a key; ``default``, if given, where the key is absent.

        Numbers are finite and from ``least`` to ``most``, both included; unless told otherwise
        they are what int32 or float32 can hold. A whole number serves as ``float``, never a
        truth value.
        """
        make, value = cast(Any, kind), self.values.get(key)
        if key not in self.values and default is not None:
            return default
        types, words = (int, float) if kind is float else make, _WORDS[kind]
        fits = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
        if kind in _MOST:
            most = _MOST[kind] if most is None else most
            least = -most if least is None else least
            words = f"{words} from {least:,.10g} to {most:,.10g}"
            fits = fits and least <= value <= most
        self.require(fits, key, words)
        return make(value)

    def get(self, key: str, kind: type[T], **bounds: Any) -> T | None:
        """The value at a key as `need` reads it, ``None`` where it is absent or null."""
        return None if self.values.get(key) is None else self.need(key, kind, **bounds)

    def section(self, key: str) -> JsonObject:
        """The object at a key, an empty one where it is absent or null."""
        values = self.get(key, dict) or {}
        return JsonObject(values, self.place, f"{self._prefix}{key}.")

    def many(self, key: str, kind: type[T], **bounds: Any) -> list[T]:
        """The list at a key, none where it is absent or null; its values as `need` reads them."""
        values = {f"{key}[{i}]": each for i, each in enumerate(self.get(key, list) or ())}
        return list(JsonObject(values, self.place, self._prefix).all(kind, **bounds).values())

    def all(self, kind: type[T], **bounds: Any) -> dict[str, T]:
        """Every value, of one kind, as `need` reads it."""
        return {key: self.need(key, kind, **bounds) for key in self.values}


def parse_json(text: str | bytes, place: str) -> JsonObject:
    """The JSON object that a text holds; a ValueError names ``place`` if it holds none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON: {error}; copy it again") from error
    return JsonObject(values, place)


def read_json(file: Path) -> JsonObject:
    """The JSON object in a file; a ValueError names the file if it holds none."""
    return parse_json(file.read_bytes(), str(file))

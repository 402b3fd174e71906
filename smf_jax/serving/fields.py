"""Fields of JSON requests, each checked; what is not known is refused and never left aside."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from smf_jax.serving.errors import RequestError, wrong


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; a `RequestError` if it is something else."""
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RequestError(400, f"the body is no JSON: {told}") from None
    if not isinstance(found, dict):
        raise RequestError(400, "the body is no JSON object; expected {…}")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


class Fields:
    """The fields of a request, taken one by one; null counts as absent."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}

    def has(self, name: str) -> bool:
        """Whether a field is given and not taken yet."""
        return name in self._values

    def take(self, name: str) -> Any:
        """A field as it stands, ``None`` if it is absent."""
        return self._values.pop(name, None)

    def text(self, name: str, most: int = 10_000) -> str:
        """A text that must be given."""
        value = self.take(name)
        if not isinstance(value, str) or not value.strip() or len(value) > most:
            raise wrong(name, value, f"a text of 1 to {most} characters")
        return encodable(name, value)

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self.take(name)
        if value is None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A number within bounds."""
        value = self.take(name)
        if value is None:
            return default
        fits = type(value) in (int, float) and math.isfinite(value) and least <= value <= most
        if not fits:
            raise wrong(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """Whether something is wanted; not if it is absent."""
        value = self.take(name)
        if not isinstance(value, bool | None):
            raise wrong(name, value, "true or false")
        return bool(value)

    def texts(self, name: str, most: int, longest: int = 1000) -> tuple[str, ...]:
        """A text or a list of them, none empty; none if it is absent."""
        value = self.take(name)
        listed = [] if value is None else [value] if isinstance(value, str) else value
        fits = isinstance(listed, list) and len(listed) <= most
        lengths = (len(text) if isinstance(text, str) else 0 for text in listed)
        if not fits or not all(0 < length <= longest for length in lengths):
            told = f"a text of 1 to {longest} characters, or a list of {most} at most"
            raise wrong(name, value, told)
        return tuple(encodable(name, text) for text in listed)

    def ignore(self, *names: str) -> None:
        """Takes fields that change nothing that is computed."""
        for name in names:
            self._values.pop(name, None)

    def require_usual(self, usual: Mapping[str, Collection[Any]]) -> None:
        """Refuses fields that mean nothing here, unless they hold what changes nothing."""
        for name, values in usual.items():
            value = self.take(name)
            if value is not None and value not in values:
                raise RequestError(400, f"{name} is not supported here: leave it out", name)

    def end(self) -> None:
        """Refuses fields that nobody has taken."""
        if self._values:
            name = min(self._values)
            raise RequestError(400, f"{name[:80]} is no field that is known here", name[:80])


def encodable(name: str, text: str) -> str:
    """A text that is one; half a pair of surrogates is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(
            400, f"{name}: not a Unicode text: a surrogate stands alone", name
        ) from None
    return text

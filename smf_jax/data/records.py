"""The parts of a record: what stands at a path, the texts in it, and lists written out as text."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any

# The parts of a nested answer: trivia_qa has a value and aliases, squad a list under text.
_PARTS = ("value", "aliases", "text")
# What begins as a list or a group of texts does, and whatever stands in square brackets.
_LISTED = re.compile(
    r"""\[.*\]\Z|\[\s*(['"\[{]|np\.|array\b)|\{\s*['"]|array\(\s*\[|\(\s*['"].*\)\Z""", re.S
)
# A part of such a text, with the gap behind it where NumPy leaves the comma out.
_PART = re.compile(
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"\[\](){},:]+|[\])}])(\s+(?=[^\s,:\])}]))?""",
    re.S,
)
_NUMPY = re.compile(r"array|(np|numpy)\.\w+")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; a ValueError if a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice: take one of them out")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_once, parse_float=Decimal)


def parse_json(text: str) -> Any:
    """JSON with a key at most once in an object, fractions as they are written (``Decimal``)."""
    value = _JSON.decode(text)
    if "\\ud" in text.lower():  # half of a character, which is no text, is a ValueError
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    return value


def at(value: Any, path: str) -> Any:
    """What stands at a dotted path, of each element where it leads through a list; or ``None``.

    A key that is the whole path goes first; slashes divide as dots do.
    """
    if isinstance(value, str):
        value = unlisted(value)
    if isinstance(value, Mapping):
        if path in value:
            return value[path]
        name, *rest = re.split("[./]", path, maxsplit=1)
        return at(value[name], rest[0]) if rest and name in value else None
    return [at(each, path) for each in value] if isinstance(value, list | tuple) else None


def paths_of(record: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted paths of everything in a record that is no group itself."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from paths_of(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def texts_in(value: Any) -> Iterator[str]:
    """The texts in a value, stripped: a text, a number, or a list or a group of them.

    Blanks, nulls and NaN are left out. A ValueError for anything else, such as a truth value.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str):
        yield from filter(None, [value.strip()])
    elif isinstance(value, Real | Decimal) and not isinstance(value, bool):
        if math.isinf(value):
            raise ValueError(f"found the number {value}: expected text or a list of texts")
        yield from () if math.isnan(value) else (str(value),)
    elif isinstance(value, Mapping) and not value.keys().isdisjoint(_PARTS):
        yield from texts_in([value[part] for part in _PARTS if part in value])
    elif isinstance(value, Iterable) and not isinstance(value, Mapping):
        for each in value:
            yield from texts_in(each)
    elif value is not None:
        raise ValueError(f"found {value!r}: expected text or a list of texts")


def unlisted(text: str) -> Any:
    """The list or group that a text writes out, in JSON, Python or NumPy; else the text itself.

    A ValueError if it looks like one and is none, or is one of numbers alone, as is an interval.
    """
    text = text.strip()
    if not _LISTED.match(text):
        return text
    value = _parse(text)
    if not isinstance(value, list | tuple | Mapping):
        if text.startswith("("):  # words in parentheses
            return text
        why = "looks like a list and cannot be read as one"
    elif isinstance(value, Mapping) or not re.search(r"\d", text) or re.search("['\"]", text):
        return value
    else:
        why = "may be a list of numbers or a text"
    raise ValueError(
        f"{text[:80]!r} {why}: expected text, or a list as JSON writes it; a text that is to keep "
        f"its brackets stands in a list of its own, {json.dumps([text[:20]], ensure_ascii=False)}"
    )


def _parse(text: str) -> Any:
    """What a text says in JSON, in Python or as NumPy prints it; ``None`` if in none of them."""
    for read in (parse_json, _read_python):
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return read(text)
    return None


def _read_python(text: str) -> Any:
    tree = ast.parse(_PART.sub(_with_comma, text), mode="eval")
    return ast.literal_eval(_Plain().visit(tree))


def _with_comma(part: re.Match[str]) -> str:
    quotes, end = ("'", '"'), part.end()
    if not part[2] and part[1][0] in quotes and part.string[end : end + 1] in quotes:
        raise ValueError("two texts touch, which Python would join")
    return part[1] + (", " if part[2] else "")


class _Plain(ast.NodeTransformer):
    """Takes NumPy's calls, ``array([…])`` and ``np.str_(…)``, for what they hold; orders sets."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        known = len(node.args) == 1 and _NUMPY.fullmatch(ast.unparse(node.func))
        return node.args[0] if known else node

    def visit_Set(self, node: ast.Set) -> ast.AST:
        self.generic_visit(node)
        return ast.List(node.elts, ast.Load())

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        _once([(ast.dump(key), None) for key in node.keys if key])
        return self.generic_visit(node)

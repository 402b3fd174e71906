"""From tokens that arrive one by one to text: whole characters, and nothing behind a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from smf_jax.data.tokenizer import Ids, Tokenizer

_CONTEXT = 4  # tokens of the prompt that decide how the first ones are written
_BROKEN = "\ufffd"  # what stands for bytes that are no whole character yet


class TextStream:
    """The text of one answer."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: Ids = list(prompt[-_CONTEXT:])
        self._start, self._told = 0, len(self._ids)
        self._text, self._sent = "", 0
        self.is_over = False  # a stop text was met

    def push(self, token: int) -> str:
        """Takes a token in; returns what can be sent now."""
        if self.is_over:
            return ""
        self._ids.append(token)
        self._decode(whole=False)
        return self._send(self._held_back())

    def finish(self) -> str:
        """The rest, once no token follows."""
        if self.is_over:
            return ""
        self._decode(whole=True)
        return self._send(0)

    @property
    def length(self) -> int:
        """Characters so far, with those held back."""
        return len(self._text)

    def _decode(self, whole: bool) -> None:
        before = self._tokenizer.decode(self._ids[self._start : self._told])
        now = self._tokenizer.decode(self._ids[self._start :])
        if not whole and now.endswith(_BROKEN):
            return
        self._text += now[len(before) :]
        self._start, self._told = self._told, len(self._ids)

    def _send(self, held: int) -> str:
        places = [at for text in self._stop if (at := self._text.find(text)) >= 0]
        if places:
            self.is_over = True
            self._text, held = self._text[: min(places)], 0
        new = self._text[self._sent : len(self._text) - held]
        self._sent += len(new)
        return new

    def _held_back(self) -> int:
        """Characters at the end that a stop text may begin with."""
        longest = max(map(len, self._stop), default=0)
        for count in range(min(longest - 1, len(self._text)), 0, -1):
            if any(text.startswith(self._text[-count:]) for text in self._stop):
                return count
        return 0

"""Asking a model open questions before anything is changed: what it knows, and what it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.evaluation.normalisation import exact_score
from smf_jax.evaluation.scorer import Scorer, answer_texts
from smf_jax.params import Params
from smf_jax.progress import progress_bar

Model = tuple[Scorer, Params]
# Tokens that prompts are padded to, and batches are filled up: few shapes are compiled.
MULTIPLE = 32


class Asking:
    """Greedy answers of one model; a prompt is asked once, whatever file it comes from."""

    def __init__(
        self,
        model: Callable[[], Model],
        tokenizer: Tokenizer,
        said: dict[str, str] | None = None,
        keep: Callable[[dict[str, str]], None] = lambda said: None,
    ) -> None:
        """Asks nothing yet.

        Args:
          model: gives scorer and leaves, the first time that there is something to ask.
          tokenizer: of the model.
          said: answers of earlier sessions by prompt, as ``keep`` was given them.
          keep: told all answers so far after each batch, so that a stop loses none.
        """
        self._model, self._made = model, None
        self._tokenizer = tokenizer
        self._said = dict(said or {})
        self._keep = keep
        self.used: dict[str, str] = {}  # those that have been asked for

    def answers(self, prompts: Sequence[Ids], steps: int, until: Sequence[str]) -> list[str]:
        """What the model answers, by ``steps`` tokens at most and up to a text of ``until``."""
        keys = [_key(ids, steps, until) for ids in prompts]
        by_key = dict(zip(keys, prompts, strict=True))
        unasked = {key: ids for key, ids in by_key.items() if key not in self._said}
        if unasked:
            scorer, params = self._made = self._made or self._model()
            asked = list(unasked.values())
            asked += asked[:1] * (-len(asked) % scorer.rows)
            texts = answer_texts(scorer, params, self._tokenizer, asked, steps, until, MULTIPLE)
            own = texts[: len(unasked)]  # without those that fill up the last batch
            self._said |= {key: text.strip() for key, text in zip(unasked, own, strict=True)}
            self._keep(dict(self._said))
        self.used |= {key: self._said[key] for key in keys}
        return [self.used[key] for key in keys]

    def first(
        self,
        asked: Sequence[tuple[Ids, Sequence[str]]],
        known: bool,
        count: int | None,
        steps: int,
        until: Sequence[str],
        rows: int,
    ) -> list[int]:
        """Places of the first ``count`` questions that are known or, if not ``known``, are not.

        Each of ``asked`` is a prompt with its accepted answers; an answer is right if it equals one
        of them after SQuAD's normalisation. ``rows`` are asked at once, until enough are found;
        ``None`` asks all.
        """
        found: list[int] = []
        what = "asking the base: known" if known else "asking the base: unknown"
        total = len(asked) if count is None else count
        with progress_bar(total, what, "question") as progress:
            for start in range(0, len(asked), rows):
                if count is not None and len(found) >= count:
                    break
                some = asked[start : start + rows]
                answers = self.answers([prompt for prompt, _ in some], steps, until)
                found += [
                    start + place
                    for place, (answer, (_, accepted)) in enumerate(zip(answers, some, strict=True))
                    if bool(exact_score(answer, accepted)) == known
                ]
                progress(start + len(some) if count is None else min(count, len(found)))
        return found[:count]


def _key(prompt: Ids, steps: int, until: Sequence[str]) -> str:
    """What a prompt and its way of being asked are known by."""
    told = f"{steps} {list(until)} {[int(token) for token in prompt]}"
    return hashlib.sha256(told.encode()).hexdigest()

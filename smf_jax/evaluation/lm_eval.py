"""A model of this library as an ``LM`` of lm-evaluation-harness, which is an optional extra.

``pip install "smf_jax[lm-eval]"``; then ``lm_eval.simple_evaluate(model=SmfLM(...), tasks=…)``, or
``python -m experiments.evaluate --harness=TASKS``. Nothing else here imports the harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
)

from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.continuations import Ids, pair_rows
from smf_jax.evaluation.scorer import Scorer
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params

# Names that tasks give the length of an answer, in the order in which the harness believes them.
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class SmfLM(TemplateLM):
    """A decoder, with or without memories, as the harness sees a model.

    Texts become tokens as they do for its Hugging Face models: ``bos`` in front where the model's
    tokenizer puts one, what follows a context cut out of the ids of the whole, contexts that are
    too long without their beginning. Two differences: a rolling likelihood never scores ``bos``
    itself, and sampling is refused.

    Attributes:
      scorer: what scores and answers.
      params: of the model by path: a base, or a base with patches applied.
      max_gen_toks: tokens of an answer where a task does not say.
    """

    def __init__(
        self,
        model: Decoder,
        params: Params,
        tokenizer: Tokenizer,
        rows: int = 64,
        max_gen_toks: int = 256,
    ) -> None:
        """Takes a model up; nothing is compiled yet.

        Args:
          model: the decoder.
          params: its leaves by path.
          tokenizer: of the model.
          rows: rows that run at once.
          max_gen_toks: tokens of an answer where a task does not say.
        """
        super().__init__()
        self.scorer = Scorer(model, rows)
        self.params = params
        self.max_gen_toks = max_gen_toks
        self._tokenizer = tokenizer

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._tokenizer.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        bos = self._tokenizer.bos
        return self._tokenizer.eos if bos is None else bos

    @property
    def max_length(self) -> int:
        """Places that the model takes."""
        return self.scorer.positions

    @property
    def tokenizer_name(self) -> str:
        """What tells the tokenizer from others, for caches of requests."""
        return f"smf_jax-{self._tokenizer.size}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        """Ids of a text; ``bos`` in front unless told otherwise or there already."""
        del kwargs
        ids, bos = self._tokenizer.encode(string), self._tokenizer.bos
        if add_special_tokens is False or bos is None or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Ids, Ids]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        del kwargs
        if not requests:
            return []
        pairs = [(context, follows) for _, context, follows in requests]
        batch = pair_rows(pairs, self._tokenizer.pad, self.max_length)
        scores = self.scorer.score(self.params, batch)
        return [
            (float(total), bool(greedy))
            for total, greedy in zip(scores.log_probability, scores.greedy, strict=True)
        ]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each token given as much before it as fits."""
        del disable_tqdm
        windows: list[tuple[Any, Ids, Ids]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (text,) = request.args
            of_text = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in of_text:
                windows.append((None, *make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += total
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, up to what stops each."""
        del disable_tqdm
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(self._limits(request.args[1]), []).append(place)
        answers = [""] * len(requests)
        for (steps, until), places in groups.items():
            contexts = [requests[place].args[0] for place in places]
            for place, text in zip(places, self._continue(contexts, steps, until), strict=True):
                answers[place] = text
        return answers

    def _limits(self, given: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
        """The longest answer in tokens, and the texts that end one.

        Raises:
          ValueError: if the answer is to be sampled, or leaves no room for a context.
        """
        if given.get("do_sample") or float(given.get("temperature") or 0) > 0:
            raise ValueError(
                f"do_sample={given.get('do_sample')}, temperature={given.get('temperature')}: "
                "answers are greedy here; give do_sample=false and temperature=0"
            )
        steps = next((int(given[name]) for name in _LENGTHS if given.get(name)), self.max_gen_toks)
        if not 1 <= steps < self.max_length:
            raise ValueError(
                f"max_gen_toks={steps}: expected at least 1 and less than the model's "
                f"{self.max_length} positions, which hold the context too"
            )
        until = given.get("until") or ()
        return steps, tuple([until] if isinstance(until, str) else until)

    def _continue(self, contexts: Sequence[str], steps: int, until: tuple[str, ...]) -> list[str]:
        ends = self._tokenizer.stops
        # A text that only several tokens make together is found in the end.
        texts = [text for text in until if text]
        stop = {*ends, *(token for text in texts for token in self._tokenizer.tokens_with(text))}
        room = self.max_length - steps
        encoded = [self.tok_encode(context)[-room:] for context in contexts]
        prompts = [ids or [self.prefix_token_id] for ids in encoded]
        answers = []
        for ids in self.scorer.answer(self.params, prompts, steps, tuple(sorted(stop))):
            text = self._tokenizer.decode(ids[:-1] if ids[-1] in ends else ids)
            for end in texts:
                text = text.partition(end)[0]
            answers.append(text)
        return answers


def run_tasks(
    model: SmfLM, tasks: Sequence[str], limit: int | None = None, include_path: str | None = None
) -> dict[str, dict[str, Any]]:
    """Runs tasks of the harness on a model.

    Args:
      model: with its params.
      tasks: names, as the harness lists them.
      limit: items of a task; ``None`` for all.
      include_path: a directory with YAML files of further tasks.

    Returns:
      The scores by task and metric, as the harness names them.

    Raises:
      ValueError: if there is no such task.
    """
    manager = TaskManager(include_path=include_path)
    try:
        found = simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, limit=limit)
    except KeyError as error:
        raise ValueError(error.args[0]) from error
    # A metric is named with its filter behind a comma; the rest is no score.
    return {
        task: {name: value for name, value in scores.items() if "," in name}
        for task, scores in found["results"].items()
    }

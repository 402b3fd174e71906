"""A model as an ``LM`` of lm-evaluation-harness, of the optional extra ``smf_jax[lm-eval]``.

For ``lm_eval.simple_evaluate(model=SmfLM(...))``, or ``experiments.evaluate --harness=TASKS``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
)

from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.errors import blame_flag
from smf_jax.evaluation.continuations import pair_rows
from smf_jax.evaluation.scorer import Scorer, answer_texts
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.progress import say

# Names that tasks give the length of an answer, in the order in which the harness believes them.
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class SmfLM(TemplateLM):
    """A decoder, with or without memories, as the harness sees a model.

    Texts become tokens as they do for its Hugging Face models: ``bos`` in front where the model's
    tokenizer puts one, what follows a context cut out of the ids of the whole, contexts that are
    too long without their beginning. Three differences: a rolling likelihood never scores ``bos``
    itself, sampling is refused, and a continuation that the tokenizer joins whole to its context's
    last token, at which their assertion ends, scores 0 and is greedy as in the harness's others.
    ``params``, by path, are those of a base, or of a base with patches applied; ``max_gen_toks`` is
    the length of an answer where a task does not say. Conversations are rendered by the
    tokenizer's chat template and its arguments.
    """

    def __init__(
        self,
        model: Decoder,
        params: Params,
        tokenizer: Tokenizer,
        rows: int = 64,
        max_gen_toks: int = 256,
    ) -> None:
        """Takes a model up, to run so many rows at once; nothing is compiled yet."""
        super().__init__()
        self.scorer = Scorer(model, rows)
        self.params = params
        self.max_gen_toks = max_gen_toks
        self._tokenizer = tokenizer
        self._template = ""  # the name of the one that was chosen

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        return (self._tokenizer.begin or [self._tokenizer.eos])[0]

    @property
    def max_length(self) -> int:
        return self.scorer.positions

    @property
    def tokenizer_name(self) -> str:
        """What tells the tokenizer and what renders chats from others, for caches of requests."""
        chat = self._tokenizer.chat
        told = [] if chat is None else [chat.texts, chat.tokens, dict(chat.arguments)]
        text = json.dumps([self._tokenizer.backend.to_str(), told], sort_keys=True)
        return f"smf_jax-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Chooses the template of chats, the default one or one by name, and returns its text."""
        if chat_template is False or chat_template is None:
            return None
        self._template = "" if chat_template is True else chat_template
        return self._tokenizer.template.select(self._template)

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; where no answer is to begin its last message goes on.

        A template that refuses it is asked again without what the system says.
        """
        template, said = self._tokenizer.template, list(chat_history)
        how = (add_generation_prompt, not add_generation_prompt, self._template)
        try:
            return template.render(said, *how)
        except ValueError:
            spoken = [message for message in said if message["role"] != "system"]
            if len(spoken) == len(said):
                raise
            return template.render(spoken, *how)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        """Ids of a text; ``bos`` in front unless told otherwise or there already."""
        ids, begin = self._tokenizer.encode(string), self._tokenizer.begin
        return ids if add_special_tokens is False or ids[:1] == begin else begin + ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Ids, Ids]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        if not requests:
            return []
        pairs = [(context, follows) for _, context, follows in requests]
        if joined := sum(not follows for _, follows in pairs):
            say(f"{joined} of {len(pairs)} continuations are one token with their context: score 0")
        batch = pair_rows(pairs, self._tokenizer.pad, self.max_length)
        scores = self.scorer.score(self.params, batch)
        return list(zip(scores.log_probability.tolist(), scores.greedy.tolist(), strict=True))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each token given as much before it as fits."""
        windows: list[tuple[Any, Ids, Ids]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            of_text = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
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
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(self._limits(request.args[1]), []).append(place)
        answers = [""] * len(requests)
        for (steps, until), places in groups.items():
            contexts = [self.tok_encode(requests[place].args[0]) for place in places]
            room = self.max_length - steps
            prompts = [ids[-room:] or [self.prefix_token_id] for ids in contexts]
            texts = answer_texts(self.scorer, self.params, self._tokenizer, prompts, steps, until)
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
        return answers

    def _limits(self, given: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
        """The longest answer in tokens, and the texts that end one."""
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
        return steps, tuple(filter(None, [until] if isinstance(until, str) else until))


def run_tasks(
    model: SmfLM,
    tasks: Sequence[str],
    limit: int | None = None,
    include_path: str | None = None,
    chat: bool = False,
) -> Iterator[dict[str, dict[str, Any]]]:
    """Scores of a model by task and metric, named as in the harness, after each of the tasks.

    The first ``limit`` items count; a group gives the scores of its tasks too. Tasks may be those
    of YAML files in ``include_path``; those that are not there are a ValueError before any runs.
    With ``chat`` items are put as conversations.
    """
    manager = TaskManager(include_path=include_path)
    if unknown := [task for task in tasks if task not in manager.task_index]:
        raise ValueError(f"the harness has no task {', '.join(unknown)}; give --harness_path")
    if chat:
        model.chat_template(True)  # or there is none
    return (_run_task(model, task, manager, limit, chat) for task in tasks)


def _run_task(
    model: SmfLM, task: str, manager: TaskManager, limit: int | None, chat: bool
) -> dict[str, dict[str, Any]]:
    with blame_flag(f"--harness={task}: "):
        found = simple_evaluate(
            model=model, tasks=[task], task_manager=manager, limit=limit, apply_chat_template=chat
        )
    # A metric is named with its filter behind a comma; the rest is no score.
    return {
        name: {metric: value for metric, value in scores.items() if "," in metric}
        for name, scores in found["results"].items()
    }

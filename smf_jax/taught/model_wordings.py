"""Other ways to ask a question, written by the model that is to be taught, and filtered.

The model goes on, greedily, from examples that ask a question in other words. A small one often
asks something else, which would be taught then: only what says all that the question says stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from smf_jax.continual.stream_tasks import question_of
from smf_jax.data.facts import Fact, Task
from smf_jax.data.shares import question_key
from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.progress import say
from smf_jax.taught.fact_files import asked_in_turn

MODEL = "model"  # of --wordings
# Shown before a question: the answer is asked for at the end, which a small model can do. Asked for
# other forms, SmolLM2 mostly repeated the question.
EXAMPLES = (
    ("Who wrote the play Hamlet?", "The play Hamlet was written by whom?"),
    ("What colour is the flag of Japan?", "The flag of Japan has what colour?"),
    ("In which year was the Eiffel Tower opened?", "The Eiffel Tower opened in which year?"),
    ("How many legs does a spider have?", "A spider has how many legs?"),
)
MORE_TOKENS, MORE_WORDS = 8, 2  # that a wording may have beyond its question
# Words that a wording may have or lack. Of the others each begins a word of it, by four letters;
# names and numbers are in it as they are, as a model that is small misspells names.
_SMALL = set(
    question_key(
        "a an and are at be been by can could did do does for from had has have i in is it its "
        "know may me of on please tell that the there this to was were what which with would you"
    ).split()
)
# What is asked for: a wording has one of a group where the question has one, and else none.
_ASKED_FOR = ({"who", "whom", "whose"}, {"when", "year", "date"}, {"where"}, {"why"}, {"how"})
_BEGINNING = 4
_NAME = re.compile(r"\w*[A-Z0-9]\w*")


def in_own_words(
    tasks: Iterable[Task],
    tokenizer: Tokenizer,
    positions: int,
    answer: Callable[[Sequence[Ids], int], list[str]],
) -> tuple[Task, ...]:
    """The facts of tasks, trained also in what the model has written of their questions.

    ``answer`` goes on from prompts, by so many tokens at most, up to the end of a line. How many
    wordings serve is told.
    """
    tasks = tuple(tasks)
    facts = [fact for task in tasks for fact in task.facts]
    head = "".join(f"Question: {q}\nIn other words: {w}\n\n" for q, w in EXAMPLES)
    texts = [f"{head}Question: {question_of(fact).text}\nIn other words:" for fact in facts]
    prompts = [list(tokenizer.encode_prompt(text)) for text in texts]
    most = max(_tokens(tokenizer, fact) for fact in facts) + MORE_TOKENS
    if max(map(len, prompts)) + most > positions:
        raise ValueError(
            f"--wordings={MODEL}: the model takes {positions} tokens, and examples, question and "
            f"what is written need {max(map(len, prompts)) + most}; leave it out"
        )
    said = dict(zip([fact.name for fact in facts], answer(prompts, most), strict=True))
    kept = {f.name: [said[f.name]] if serves(f, said[f.name], tokenizer) else [] for f in facts}
    count = sum(map(bool, kept.values()))
    say(f"wordings: {count} of {len(facts)} that the model wrote serve, and are trained")
    return tuple(
        replace(task, facts=tuple(asked_in_turn(fact, kept[fact.name]) for fact in task.facts))
        for task in tasks
    )


def serves(fact: Fact, wording: str, tokenizer: Tokenizer) -> bool:
    """Whether a text asks what a fact's question asks, in other words, as far as rules can tell.

    It is a question, not the question itself; has none of the answers; has what is asked for and
    all words of the question that carry it, few others; and is not much longer.
    """
    question = question_of(fact)
    ours, theirs = question_key(question.text).split(), question_key(wording).split()
    key = f" {' '.join(theirs)} "
    new = [word for word in theirs if word not in _SMALL and not _begun(word, ours)]
    behind = question.text.partition(" ")[2]  # the first word has a capital whatever it is
    named = set(question_key(" ".join(_NAME.findall(behind))).split())
    return (
        wording.endswith("?")
        and wording.count("?") == 1
        and ours != theirs
        and not any(f" {question_key(answer)} " in key for answer in question.answers)
        and all(group.isdisjoint(ours) == group.isdisjoint(theirs) for group in _ASKED_FOR)
        and named <= set(theirs)
        and all(word in _SMALL or _begun(word, theirs) or _is_asking(word) for word in ours)
        and len([word for word in new if not _is_asking(word)]) <= MORE_WORDS
        and len(tokenizer.encode(wording)) <= _tokens(tokenizer, fact) + MORE_TOKENS
    )


def _tokens(tokenizer: Tokenizer, fact: Fact) -> int:
    return len(tokenizer.encode(question_of(fact).text))


def _begun(word: str, others: Iterable[str]) -> bool:
    return any(other.startswith(word[:_BEGINNING]) for other in others)


def _is_asking(word: str) -> bool:
    return any(word in group for group in _ASKED_FOR)

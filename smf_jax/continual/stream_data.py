"""What a sweep reads, encoded: the tasks, the probes, the background and the rows of replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from smf_jax import checkpoints
from smf_jax.bases.base import Base
from smf_jax.continual.answering import Answering
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.format_rows import FormatRows, encode_others, read_others
from smf_jax.continual.kinds import encode_kinds
from smf_jax.continual.sections import BackgroundConfig, ProbeConfig
from smf_jax.continual.stream_tasks import questions_of, read_tasks, world_of
from smf_jax.data.batching import (
    Batch,
    concatenate,
    encode_paraphrases,
    mix_in,
    needed_length,
    pack_texts,
    sample_batches,
)
from smf_jax.data.facts import (
    Fact,
    Paraphrase,
    Task,
    first_paraphrases,
    train_paraphrases,
)
from smf_jax.data.packing import Packed, one_to_a_row, pack_rows
from smf_jax.data.readers import Reader
from smf_jax.data.shares import question_key
from smf_jax.data.world.world import World
from smf_jax.errors import blame_flag
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.probe import Probe, ProbeContext, ProbeOptions
from smf_jax.evaluation.probes.exact import ExactProbe, answer_probe, asked_once
from smf_jax.evaluation.probes.registry import Probes, asks_base, parse_probes, read_probes
from smf_jax.paths import as_path

# As many paraphrases of a fact are asked seen as unseen.
ASKED = 2


@dataclass(frozen=True)
class General:
    """General text, encoded: what the background is measured on and replay draws from."""

    rows: Batch  # ``(rows, t)``; healing and replay take these alone
    corpus: str  # its name, and what else the background holds
    formats: FormatRows | None = None  # further rows of the background, in the stream's formats


@dataclass(frozen=True)
class StreamData:
    """Everything a sweep reads."""

    tasks: tuple[Task, ...]  # the stream
    examples: tuple[Batch, ...]  # per task, its facts in their trained paraphrases, ``(rows, t)``
    seen: tuple[ExactProbe, ...]  # per task, its facts asked in paraphrases they are trained in
    # Per task, its facts asked in paraphrases that only other facts are trained in.
    unseen: tuple[ExactProbe, ...]
    # Further probes of facts by name; the first is that of known facts.
    questions: Mapping[str, ExactProbe]
    texts: Mapping[str, Batch]  # probes of text by name; the first is that of neutral text
    general: General | None  # background and replay; ``None`` if there is none
    # Probes that are measured on whole models, by name.
    named: Mapping[str, Probe] = field(default_factory=dict)
    # By kind, per task, its facts asked in other kinds of question; empty if they are in none.
    kinds: Mapping[str, tuple[ExactProbe, ...]] = field(default_factory=dict)
    pack: bool = False  # whether rows of batches and of probes hold several, see `dealt`

    @cached_property
    def _examples_by_fact(self) -> tuple[Packed, ...]:
        facts = ([len(fact.train) for fact in task.facts] for task in self.tasks)
        return tuple(map(one_to_a_row, self.examples, facts))

    @cached_property
    def _packed_by_fact(self) -> tuple[Packed, ...]:
        return tuple(pack_rows(of.rows, of.groups) for of in self._examples_by_fact)

    @cached_property
    def _packed(self) -> tuple[Packed, ...]:
        return tuple(pack_rows(of.rows, [sum(of.groups)]) for of in self._examples_by_fact)

    def dealt(self, by_fact: bool) -> tuple[Packed, ...]:
        """Per task the rows that batches are dealt from, and how many each fact has.

        These are the examples, or rows of several each: of one fact, if `by_fact`, else of any.
        """
        if not self.pack:
            return self._examples_by_fact
        return self._packed_by_fact if by_fact else self._packed

    @cached_property
    def answering(self) -> Answering:
        """Asks the facts of the tasks, seen and unseen."""
        return Answering([*self.seen, *self.unseen], self.pack)

    @cached_property
    def answering_kinds(self) -> Mapping[str, Answering]:
        """Asks them in other kinds of question, by kind."""
        return {kind: Answering(of_tasks, self.pack) for kind, of_tasks in self.kinds.items()}

    def batches(
        self,
        task: int,
        seed: int,
        steps: int,
        rows: int,
        replayed: int,
        by_fact: bool = False,
        earlier: float = 0.0,
    ) -> Batch:
        """The batches of one task, ``(steps, rows + replayed, t)``; the trial's seed orders them.

        Of packed rows a batch has as many as hold `rows` examples, on average over the stream.
        `replayed` are rows of general text, the last of each batch; `by_fact` keeps the paraphrases
        of a fact together; the share `earlier` of the rows is drawn from earlier tasks.
        """
        rng = np.random.default_rng([seed, task])
        dealt = self.dealt(by_fact)
        groups = dealt[task].groups if by_fact else None
        if self.pack:
            each = sum(len(of.rows.tokens) for of in dealt) / sum(map(_count, self.examples))
            rows = max(1, round(rows * each))
        batches = sample_batches(dealt[task].rows, steps, rows, rng, groups)
        if earlier and task:
            batches = mix_in(batches, concatenate([of.rows for of in dealt[:task]]), earlier, rng)
        if not replayed or self.general is None:
            return batches
        old = sample_batches(self.general.rows, steps, replayed, rng)
        old = old._replace(valid=old.valid.astype(batches.valid.dtype))
        return Batch(*(np.concatenate(pair, axis=1) for pair in zip(batches, old, strict=True)))

    def background_batches(self, count: int, rows: int) -> tuple[Batch, ...]:
        """``count`` batches of ``rows`` rows of background, always the same.

        They are told in parts ``(count, some of the rows, t)``, one for each length ``t``.
        """
        if self.general is None:
            raise ValueError("no general text to measure a background on; give --background")
        text, formats = self.general.rows, self.general.formats
        if formats is None:
            return (sample_batches(text, count, rows, np.random.default_rng(0)),)
        parts = (text, formats.worded, formats.prompts)
        text, worded, *prompts = (
            sample_batches(part, count, share, np.random.default_rng(number))
            for number, (part, share) in enumerate(zip(parts, formats.counts(rows), strict=True))
            if part is not None and share
        )
        joined = Batch(*(np.concatenate(pair, axis=1) for pair in zip(text, worded, strict=True)))
        return (joined, *prompts)


def is_chosen_by_base(config: SweepConfig) -> bool:
    """Whether the stream or a probe depends on what the untouched base answers."""
    items = parse_probes(config.probes.probes, Reader(**config.data.values()).fields)
    return config.stream.unknown_only or asks_base(items)


def load_stream_data(config: SweepConfig, base: Base, asking: Asking | None = None) -> StreamData:
    """Reads and encodes all that the configuration names; the base may be an abstract one.

    Without ``asking`` the base all questions stand for those that it does or does not know: what
    can be refused is refused before anything is computed. Raises ValueError, naming the flag, if a
    source is missing, malformed, or does not fit the base.
    """
    base = config.probes.with_chats(base)
    using, world = _using(config, base, asking), world_of(config, base)
    others = read_others(config, base, using)
    stream = read_tasks(config, world, using, _sets_aside(config, others))
    return encode_stream(config, base, using, stream, others, world)


def taught_questions(config: SweepConfig, base: Base, asking: Asking | None) -> frozenset[str]:
    """The keys of the questions of a stream, which no `known` probe asks; raises as above."""
    base = config.probes.with_chats(base)
    using = _using(config, base, asking)
    aside = _sets_aside(config, read_others(config, base, using))
    return _keys(read_tasks(config, world_of(config, base), using, aside))


def _using(config: SweepConfig, base: Base, asking: Asking | None) -> ProbeContext:
    reader, options = Reader(**config.data.values()), ProbeOptions.of(config.probes)
    return ProbeContext(reader, base.tokenizer, base.config.max_positions, options, asking)


def _sets_aside(config: SweepConfig, others: Sequence[Fact]) -> bool:
    """Whether the stream's own file has the other questions, which are then not taught."""
    return bool(others) and not config.background.background_questions


def _keys(stream: Sequence[Task]) -> frozenset[str]:
    return frozenset(map(question_key, questions_of(stream)))


def encode_stream(
    config: SweepConfig,
    base: Base,
    using: ProbeContext,
    stream: Sequence[Task],
    others: Sequence[Fact] = (),
    world: World | None = None,
) -> StreamData:
    """Reads and encodes what goes with the tasks of a stream, wherever these are from.

    ``others`` are questions for the formats of the background; raises as `load_stream_data`.
    """
    reader = using.reader
    using = using._replace(taught=_keys(stream))
    with blame_flag(f"--stream={config.stream.stream or 'world'}: "):
        length = _longest(base, stream, world)
        kinds = encode_kinds(base.tokenizer, base.config.max_positions, stream)
    weight = config.training.prompt_loss_weight

    def encoded(task: Task) -> Batch:
        return encode_paraphrases(base.tokenizer, train_paraphrases(task.facts), length, weight)

    def probe(task: Task, paraphrases: str) -> ExactProbe:
        facts = first_paraphrases(task.facts, paraphrases, ASKED)
        return answer_probe(base.tokenizer, facts, paraphrases, length)

    limit = config.probes.probe_limit
    if config.background.background and not is_measured(config.background.background):
        general, held_out = _windows(config.background, limit, reader, base, length)
    elif world is not None:
        general, held_out = _taught(world, limit, base, length, weight)
    else:
        general, held_out = None, None
    if others and general is not None:
        formats = encode_others(config, using, others, stream, length)
        general = General(general.rows, f"{general.corpus}, and {formats.about}", formats)
    probes = _probes(config.probes, using, world, held_out)
    return StreamData(
        tasks=tuple(stream),
        examples=tuple(map(encoded, stream)),
        seen=tuple(probe(task, "train") for task in stream),
        unseen=tuple(probe(task, "held_out") for task in stream),
        questions=probes.questions,
        texts=probes.texts,
        general=general,
        named=probes.named,
        kinds=kinds,
        pack=config.training.pack,
    )


def _longest(base: Base, stream: Sequence[Task], world: World | None) -> int:
    """Places for every paraphrase of a stream and its world; a ValueError if the model has less."""
    facts = [*(fact for task in stream for fact in task.facts), *(world.known if world else ())]
    spoken: list[Paraphrase] = [w for fact in facts for w in (*fact.train, *fact.held_out)]
    length = needed_length(base.tokenizer, spoken)
    if length > base.config.max_positions:
        raise ValueError(
            f"its longest question takes {length} tokens, the model at most "
            f"{base.config.max_positions}; leave out long questions"
        )
    return length


def _windows(
    config: BackgroundConfig, limit: int, reader: Reader, base: Base, length: int
) -> tuple[General, Batch]:
    """Windows of the text that ``--background`` names, and some held out of them."""
    # Windows of the stream's length: replay joins them with its rows.
    needed = config.background_batches * config.background_batch_size
    texts = reader.texts(config.background, "background")
    with blame_flag(f"--background={config.background}: "):
        windows = pack_texts(base.tokenizer, texts, length, (needed + limit) * length)
    count = windows.tokens.shape[0]
    if count <= limit:
        raise ValueError(
            f"--background={config.background} holds {count} windows of {length} tokens, of which "
            f"--probe_limit={limit} are held out; give more text or lower it"
        )
    rest, held_out = (
        Batch(*(field[part] for field in windows))
        for part in (slice(None, count - limit), slice(-limit, None))
    )
    return General(rest, as_path(config.background).name), held_out


def _taught(
    world: World, limit: int, base: Base, length: int, weight: float
) -> tuple[General, Batch]:
    """What a built-in base was taught, and neutral text that it was not."""
    taught = encode_paraphrases(base.tokenizer, train_paraphrases(world.known), length, weight)
    neutral = pack_texts(base.tokenizer, world.neutral_train, length)
    held_out = pack_texts(base.tokenizer, world.neutral_heldout, length, limit * length)
    return General(concatenate([taught, neutral]), "built-in world"), held_out


def is_measured(background: str) -> bool:
    """Whether ``--background`` names measured statistics and not text."""
    return bool(background) and checkpoints.is_complete(background)


def _probes(
    config: ProbeConfig, using: ProbeContext, world: World | None, held_out: Batch | None
) -> Probes:
    """The probes that the configuration names, or those of the base's own world."""
    probes = read_probes(config.probes, using)
    if not config.probes and world is not None:
        known = world.kept[: config.probe_limit]
        probes.questions["known"] = asked_once(using.tokenizer, known)
    if not probes.texts and held_out is not None:
        probes.texts["neutral"] = held_out
    return probes


def _count(batch: Batch) -> int:
    return len(batch.tokens)


def chunked(batch: Batch, rows: int) -> Batch:
    """``(rows, t)`` to ``(chunks, rows, t)``, filled up with pads."""
    missing = -batch.tokens.shape[0] % rows
    return Batch(
        *(
            np.pad(field, ((0, missing), (0, 0))).reshape(-1, rows, field.shape[-1])
            for field in batch
        )
    )

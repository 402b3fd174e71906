"""The built-in world: a seeded generator of entities, facts, a stream of tasks and neutral text.

What the base sees does not depend on the stream, which grows only at its end.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from smf_jax.data.facts import (
    Fact,
    Paraphrase,
    Task,
    check_paraphrase_counts,
    require_at_least,
    rotate_paraphrases,
)
from smf_jax.data.facts import train_paraphrases as paraphrases_of
from smf_jax.data.world.lexicon import (
    CLOSINGS,
    KINDS,
    OBJECTS,
    OPENINGS,
    PARAPHRASES_PER_RELATION,
    RELATIONS,
    Relation,
)
from smf_jax.data.world.neutral import neutral_sentences


@dataclass(frozen=True)
class WorldConfig:
    """What the world holds; equal configurations give equal worlds."""

    seed: int = 0
    known_facts: int = 1000  # that the base is taught
    relations: int = len(RELATIONS)  # in use: the first so many of the lexicon
    facts_per_entity: int = 5  # known and new; fewer where a kind has fewer relations
    train_paraphrases: int = 8  # of a fact, that training sees
    held_out_paraphrases: int = 2  # of a fact, that only evaluation sees
    tasks: int = 10
    facts_per_task: int = 20
    changed_share: float = 0.2  # of a task's facts, that give a known fact another object
    neutral_train: int = 4000  # sentences of neutral text to train on
    neutral_heldout: int = 400

    def __post_init__(self) -> None:
        require_at_least(
            1,
            known_facts=self.known_facts,
            relations=self.relations,
            facts_per_entity=self.facts_per_entity,
            neutral_train=self.neutral_train,
            facts_per_task=self.facts_per_task,
        )
        require_at_least(0, tasks=self.tasks, neutral_heldout=self.neutral_heldout)
        if self.relations > len(RELATIONS):
            raise ValueError(
                f"relations={self.relations}: the lexicon has {len(RELATIONS)}; lower it"
            )
        check_paraphrase_counts(
            self.train_paraphrases, self.held_out_paraphrases, PARAPHRASES_PER_RELATION
        )
        if self.known_facts < 2 * self.relations:
            raise ValueError(
                f"known_facts={self.known_facts} with relations={self.relations}: every relation "
                "needs two known facts, so that each paraphrase is trained in; give at least "
                f"known_facts={2 * self.relations} or fewer relations"
            )
        if not 0 <= self.changed_share <= 1:
            raise ValueError(f"changed_share={self.changed_share}: expected 0 to 1")
        changed = self.tasks * self.changed_per_task
        if changed > self.known_facts:
            raise ValueError(
                f"changed_share={self.changed_share} of {self.tasks} tasks of "
                f"{self.facts_per_task} facts changes {changed} known facts, but there are "
                f"{self.known_facts}: lower changed_share, tasks or facts_per_task"
            )

    @property
    def changed_per_task(self) -> int:
        """Facts of a task that change a known one."""
        return round(self.changed_share * self.facts_per_task)


@dataclass(frozen=True)
class World:
    """Everything a run on the built-in world reads."""

    known: tuple[Fact, ...]  # the facts the base is taught
    changed: frozenset[str]  # names of known facts that the stream gives another object
    tasks: tuple[Task, ...]  # the stream
    # Sentences without facts, for the base, the background and the text probe.
    neutral_train: tuple[str, ...]
    neutral_heldout: tuple[str, ...]

    @property
    def kept(self) -> tuple[Fact, ...]:
        """The known facts that the stream leaves as they are."""
        return tuple(fact for fact in self.known if fact.name not in self.changed)

    def texts(self) -> Iterator[str]:
        """What the base may read: known facts in their trained paraphrases, and neutral text."""
        for paraphrase in paraphrases_of(self.known):
            yield paraphrase.prompt + paraphrase.answer
        yield from self.neutral_train

    def tokenizer_texts(self) -> Iterator[str]:
        """The same texts with every made-up name exchanged for another, at random.

        So a tokenizer learns the syllables of all names, not one token for each known name.
        """
        rng = random.Random("tokenizer")
        made_up = frozenset(_ALL_MADE_UP)
        for text in self.texts():
            yield _CAPITALISED.sub(
                lambda word: rng.choice(_ALL_MADE_UP) if word[0] in made_up else word[0], text
            )


def make_world(config: WorldConfig) -> World:
    """The world of a configuration, equal everywhere; a ValueError if made-up names run out."""
    kinds = _kinds(config)
    known = _known_statements(config, kinds)
    tasks = _stream(config, kinds, known)
    changed = {fact.name for task in tasks for fact in task.facts}
    changed &= {statement.name for statement in known}
    count = config.neutral_train + config.neutral_heldout
    sentences = neutral_sentences(count, random.Random(f"{config.seed}/neutral"))
    return World(
        known=tuple(statement.fact(config) for statement in known),
        changed=frozenset(changed),
        tasks=tasks,
        neutral_train=sentences[: config.neutral_train],
        neutral_heldout=sentences[config.neutral_train :],
    )


@dataclass(frozen=True)
class _Statement:
    """A fact before it is put into words."""

    subject: str
    relation: Relation
    object: str
    turn: int  # its place among the facts of the relation: decides the paraphrases held out

    @property
    def name(self) -> str:
        return f"{self.relation.name}: {self.subject}"

    def fact(self, config: WorldConfig) -> Fact:
        """The statement in words."""
        paraphrases = tuple(
            Paraphrase(paraphrase.format(self.subject), f" {self.object}")
            for paraphrase in self.relation.paraphrases
        )
        train, held_out = rotate_paraphrases(
            paraphrases, self.turn, config.train_paraphrases, config.held_out_paraphrases
        )
        return Fact(self.name, self.relation.name, train, held_out, (self.object,))


@dataclass(frozen=True)
class _Kind:
    """A kind of entity; its facts are numbered, those of the known entities first.

    Facts go round the relations: no entity meets one twice, and all are equally frequent.
    """

    name: str
    relations: tuple[Relation, ...]
    known_facts: int
    facts_per_entity: int
    firsts: tuple[str, ...]
    lasts: tuple[str, ...]

    def subject(self, entity: int, first: str = "", last: str = "") -> str:
        """The name of an entity from its own made-up words; listed ones come round."""
        firsts, lasts = self.firsts, self.lasts
        return f"{first or firsts[entity % len(firsts)]} {last or lasts[entity % len(lasts)]}"

    def place(self, number: int) -> tuple[Relation, int]:
        """The relation of a fact, and the turn of that fact in the relation."""
        turn, relation = divmod(number, len(self.relations))
        return self.relations[relation], turn


def _kinds(config: WorldConfig) -> tuple[_Kind, ...]:
    """The kinds in use, with their relations and the parts of their names."""
    rng = random.Random(f"{config.seed}/kinds")
    # Just the paraphrases that a fact needs: two neighbouring facts then cover all of them.
    needed = config.train_paraphrases + config.held_out_paraphrases
    relations = [
        relation._replace(paraphrases=tuple(rng.sample(relation.paraphrases, needed)))
        for relation in RELATIONS[: config.relations]
    ]
    groups = {kind: [r for r in relations if r.kind == kind] for kind in KINDS}
    groups = {kind: group for kind, group in groups.items() if group}
    shares = {
        kind: config.known_facts * len(group) // len(relations) for kind, group in groups.items()
    }
    shares[next(iter(shares))] += config.known_facts - sum(shares.values())
    used: set[str] = set()
    kinds = []
    for kind, group in groups.items():
        rng.shuffle(group)
        facts_per_entity = min(config.facts_per_entity, len(group))
        entities = -(-shares[kind] // facts_per_entity)
        firsts, lasts = (part or _made_up(entities, used, rng) for part in KINDS[kind])
        kinds.append(_Kind(kind, tuple(group), shares[kind], facts_per_entity, firsts, lasts))
    return tuple(kinds)


def _made_up(count: int, used: set[str], rng: random.Random) -> tuple[str, ...]:
    """Made-up words that are not used yet; the set of used ones grows."""
    free = [word for word in _ALL_MADE_UP if word not in used]
    if count > len(free):
        raise ValueError(
            f"known_facts: {count} more made-up names needed, {len(free)} left: "
            "lower known_facts or raise facts_per_entity"
        )
    words = rng.sample(free, count)
    used.update(words)
    return tuple(words)


_ALL_MADE_UP = tuple(opening + closing for opening in OPENINGS for closing in CLOSINGS)
_CAPITALISED = re.compile(r"[A-Z][a-z]+")


def _known_statements(config: WorldConfig, kinds: tuple[_Kind, ...]) -> list[_Statement]:
    """What the base is taught; the objects of a relation are dealt, so that all occur."""
    rng = random.Random(f"{config.seed}/known")
    hands: dict[str, list[str]] = {}
    statements = []
    for kind in kinds:
        for number in range(kind.known_facts):
            relation, turn = kind.place(number)
            hand = hands.setdefault(relation.name, [])
            if not hand:
                hand.extend(rng.sample(OBJECTS[relation.objects], len(OBJECTS[relation.objects])))
            subject = kind.subject(number // kind.facts_per_entity)
            statements.append(_Statement(subject, relation, hand.pop(), turn))
    rng.shuffle(statements)
    return statements


def _stream(
    config: WorldConfig, kinds: tuple[_Kind, ...], known: list[_Statement]
) -> tuple[Task, ...]:
    """Tasks of new facts, about entities that follow the known ones, and of changed facts."""
    rng = random.Random(f"{config.seed}/changed")
    to_change = iter(rng.sample(known, len(known)))
    new = _new_statements(config, kinds)
    tasks = []
    for number in range(config.tasks):
        statements = list(islice(new, config.facts_per_task - config.changed_per_task))
        for old in islice(to_change, config.changed_per_task):
            others = [word for word in OBJECTS[old.relation.objects] if word != old.object]
            statements.append(replace(old, object=rng.choice(others)))
        facts = tuple(statement.fact(config) for statement in statements)
        tasks.append(Task(f"task_{number:02d}", facts))
    return tuple(tasks)


def _new_statements(config: WorldConfig, kinds: tuple[_Kind, ...]) -> Iterator[_Statement]:
    """Facts about new entities, without end; kinds come up by their number of relations."""
    rng = random.Random(f"{config.seed}/new")
    names = _new_names(config, kinds)
    following = {kind.name: -(-kind.known_facts // kind.facts_per_entity) for kind in kinds}
    while True:
        (kind,) = rng.choices(kinds, [len(kind.relations) for kind in kinds])
        entity = following[kind.name]
        following[kind.name] += 1
        subject = kind.subject(entity, *("" if part else next(names) for part in KINDS[kind.name]))
        for part in range(kind.facts_per_entity):
            relation, turn = kind.place(entity * kind.facts_per_entity + part)
            word = rng.choice(OBJECTS[relation.objects])
            yield _Statement(subject, relation, word, turn)


def _new_names(config: WorldConfig, kinds: tuple[_Kind, ...]) -> Iterator[str]:
    """Made-up words that no known entity is called by, each once."""
    used = {word for kind in kinds for word in (*kind.firsts, *kind.lasts)}
    free = [word for word in _ALL_MADE_UP if word not in used]
    random.Random(f"{config.seed}/names").shuffle(free)
    yield from free
    raise ValueError(
        f"the stream asks for more than {len(free)} new names, and the made-up ones run out: "
        "lower tasks or facts_per_task"
    )

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import astuple, replace

import numpy as np
import pytest

from smf_jax.data.batching import needed_length, split_paraphrases
from smf_jax.data.facts import Fact, Paraphrase
from smf_jax.data.facts import train_paraphrases as paraphrases_of
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.data.world.lexicon import CLOSINGS, KINDS, OBJECTS, OPENINGS, RELATIONS
from smf_jax.data.world.neutral import neutral_sentences
from smf_jax.data.world.world import World, WorldConfig, make_world

SMALL = WorldConfig(known_facts=60, tasks=3, facts_per_task=10, neutral_train=50, neutral_heldout=9)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(WorldConfig())


def subject(fact: Fact) -> str:
    return fact.name.partition(": ")[2]


def template(fact: Fact, paraphrase: Paraphrase) -> tuple[str, str]:
    return fact.relation, paraphrase.prompt.replace(subject(fact), "{}")


def stream(world: World) -> list[Fact]:
    return [fact for task in world.tasks for fact in task.facts]


def test_the_lexicon_is_large_enough():
    assert len(RELATIONS) >= 24
    assert all(len(set(relation.paraphrases)) >= 10 for relation in RELATIONS)
    assert all(30 <= len(set(words)) == len(words) <= 60 for words in OBJECTS.values())


def test_no_wording_serves_two_relations():
    """One prompt must have one answer: two relations may not put the same words to a subject."""
    paraphrases = [paraphrase for relation in RELATIONS for paraphrase in relation.paraphrases]
    per_kind = Counter((r.kind, paraphrase) for r in RELATIONS for paraphrase in r.paraphrases)
    assert max(per_kind.values()) == 1
    assert all(
        paraphrase.count("{}") == 1 and paraphrase == paraphrase.strip()
        for paraphrase in paraphrases
    )


def test_sizes_are_those_of_the_configuration(world):
    assert len(world.known) == 1000
    assert len({fact.relation for fact in world.known}) == len(RELATIONS)
    assert [len(task.facts) for task in world.tasks] == [20] * 10
    assert (len(world.neutral_train), len(world.neutral_heldout)) == (4000, 400)
    counts = Counter(fact.relation for fact in world.known)
    assert max(counts.values()) - min(counts.values()) <= 2


def test_the_world_is_a_function_of_its_configuration(world):
    assert make_world(WorldConfig()) == world
    assert make_world(SMALL) != make_world(replace(SMALL, seed=1))


def plain(content):
    """Tuples all the way down: the names of records are no part of the world."""
    told = isinstance(content, tuple)
    return tuple(plain(each) for each in content if each is not None) if told else content


def content_of(fact: Fact) -> tuple:
    """All fields of a fact but its kinds of question, of which a world has none."""
    *content, asked = astuple(fact)
    assert asked == fact.asked == ()
    return tuple(content)


def test_the_world_is_the_same_on_every_machine():
    """A base is cached by its configuration: if this changes on purpose, old caches are stale."""
    world = make_world(SMALL)
    facts = tuple(map(content_of, world.known))
    tasks = tuple((task.name, tuple(map(content_of, task.facts))) for task in world.tasks)
    content = (facts, tasks, tuple(sorted(world.changed)), world.neutral_train)
    digest = hashlib.sha256(repr(plain(content)).encode()).hexdigest()
    assert digest[:16] == "6e25ac18da91070d"


def test_names_and_prompts_are_unique_among_what_is_known_at_one_time(world):
    for facts in (world.known, stream(world)):
        assert len({fact.name for fact in facts}) == len(facts)
    prompts = Counter(w.prompt for fact in world.known for w in (*fact.train, *fact.held_out))
    assert max(prompts.values()) == 1


def test_facts_are_well_formed(world):
    objects = {relation.name: OBJECTS[relation.objects] for relation in RELATIONS}
    for fact in (*world.known, *stream(world)):
        assert (len(fact.train), len(fact.held_out)) == (8, 2)
        assert not set(fact.train) & set(fact.held_out)
        assert fact.answers[0] in objects[fact.relation]
        for paraphrase in (*fact.train, *fact.held_out):
            assert paraphrase.answer == f" {fact.answers[0]}"
            assert paraphrase.prompt == paraphrase.prompt.strip()
            assert subject(fact) in paraphrase.prompt


@pytest.mark.parametrize("config", [WorldConfig(), WorldConfig(known_facts=56, seed=3), SMALL])
def test_unseen_paraphrases_are_trained_in_by_other_known_facts(config):
    world = make_world(config)
    train: dict[tuple[str, str], set[str]] = {}
    for fact in world.known:
        for paraphrase in fact.train:
            train.setdefault(template(fact, paraphrase), set()).add(fact.name)
    for fact in (*world.known, *stream(world)):
        for paraphrase in fact.held_out:
            assert train[template(fact, paraphrase)] - {fact.name}


def test_different_facts_hold_out_different_paraphrases(world):
    held_out = {template(f, w) for f in world.known for w in f.held_out}
    assert len(held_out) == 10 * len(RELATIONS)


def test_the_stream_holds_new_and_changed_facts(world):
    known = {fact.name: fact for fact in world.known}
    subjects = {subject(fact) for fact in world.known}
    for task in world.tasks:
        changed = [fact for fact in task.facts if fact.name in known]
        new = [fact for fact in task.facts if fact.name not in known]
        assert (len(changed), len(new)) == (4, 16)
        assert all(fact.answers != known[fact.name].answers for fact in changed)
        assert not {subject(fact) for fact in new} & subjects
    assert world.changed == {fact.name for fact in stream(world)} & set(known)
    assert len(world.changed) == 40
    assert {fact.name for fact in world.kept} == set(known) - world.changed


def test_entities_have_several_relations(world):
    for facts in (world.known, [f for f in stream(world) if f.name not in world.changed]):
        assert np.mean(list(Counter(map(subject, facts)).values())) > 3


def test_names_of_new_entities_are_new_words_of_the_same_syllables(world):
    """Nothing but the syllables is shared: no new name holds a known entity's own word."""
    listed = {word for parts in KINDS.values() for part in parts if part for word in part}
    known = {word for fact in world.known for word in subject(fact).split()} - listed
    fresh = [f for f in stream(world) if f.name not in world.changed]
    new = {word for fact in fresh for word in subject(fact).split()} - listed
    assert new and not new & known
    made_up = {opening + closing for opening in OPENINGS for closing in CLOSINGS}
    assert new | known <= made_up


def test_known_and_new_names_take_as_many_tokens(world):
    tokenizer = train_tokenizer(world.tokenizer_texts(), 2048)

    def mean_length(facts: list[Fact]) -> float:
        return float(np.mean([len(tokenizer.encode(subject(fact))) for fact in facts]))

    fresh = [f for f in stream(world) if f.name not in world.changed]
    assert mean_length(list(world.known)) == pytest.approx(mean_length(fresh), rel=0.1)


def test_what_the_base_sees_does_not_depend_on_the_stream():
    other = make_world(replace(SMALL, tasks=1, facts_per_task=4, changed_share=0.5))
    small = make_world(SMALL)
    assert other.known == small.known
    assert list(other.texts()) == list(small.texts())
    assert other.neutral_heldout == small.neutral_heldout


def test_a_longer_stream_begins_with_a_shorter_one():
    longer = make_world(replace(SMALL, tasks=5))
    assert longer.tasks[:3] == make_world(SMALL).tasks


def test_neutral_text_is_held_out_and_says_nothing_about_the_world(world):
    assert not set(world.neutral_train) & set(world.neutral_heldout)
    assert len(set(world.neutral_train)) == len(world.neutral_train)
    parts = {part for fact in (*world.known, *stream(world)) for part in subject(fact).split()}
    words = {
        word.strip(".,")
        for sentence in (*world.neutral_train, *world.neutral_heldout)
        for word in sentence.split()
    }
    assert not words & parts


def test_the_base_never_reads_the_stream_or_what_is_asked(world):
    texts = set(world.texts())
    for fact in (*world.known, *stream(world)):
        assert not {prompt + answer for prompt, answer in fact.held_out} & texts
    for fact in stream(world):
        assert not {prompt + answer for prompt, answer in fact.train} & texts


@pytest.mark.parametrize("seed", [0, 1])
def test_examples_are_short_with_the_worlds_own_tokenizer(seed):
    world = make_world(WorldConfig(seed=seed))
    tokenizer = train_tokenizer(world.tokenizer_texts(), 2048)
    everything = [*world.known, *stream(world)]
    paraphrases = [*paraphrases_of(everything), *(w for fact in everything for w in fact.held_out)]
    lengths = [len(p) + len(a) - 1 for p, a in split_paraphrases(tokenizer, paraphrases)]
    assert needed_length(tokenizer, paraphrases) == 16
    assert np.mean(lengths) < 11


def test_neutral_sentences_run_out_with_an_error():
    with pytest.raises(ValueError, match="yields 1000000: lower neutral_train"):
        neutral_sentences(100_000_000, random.Random(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known_facts": 0}, "known_facts=0: expected at least 1"),
        ({"known_facts": 40}, "give at least known_facts=56 or fewer relations"),
        ({"relations": 99}, "relations=99: the lexicon has 28; lower it"),
        ({"train_paraphrases": 11}, "train_paraphrases=11 and held_out_paraphrases=2 need 13"),
        ({"changed_share": 1.5}, r"changed_share=1.5: expected 0 to 1"),
        ({"tasks": -1}, "tasks=-1: expected at least 0"),
        ({"tasks": 100}, "changes 200 known facts, but there are 60: lower changed_share"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_running_out_of_names_is_an_error():
    config = WorldConfig(known_facts=56, tasks=1000, facts_per_task=20, changed_share=0.0)
    with pytest.raises(ValueError, match="made-up ones run out: lower tasks or facts_per_task"):
        make_world(config)

"""Invented facts to be written one at a time: ``python -m examples.writes --out=writes.jsonl``.

Each record teaches a fact about somebody who does not exist by one question, and asks it in five
kinds of others, as 2607.11020 does: directly, reversed, indirectly, in a cloze and in a document.
``python -m experiments.sweep --preset=cortex --stream=writes.jsonl`` measures them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from smf_jax.checkpoints.files import write_text
from smf_jax.command import run
from smf_jax.configuration import SEED, Configuration, PathText, setting
from smf_jax.data.world.lexicon import CLOSINGS, KINDS, OBJECTS, OPENINGS
from smf_jax.errors import require_writable
from smf_jax.paths import as_path
from smf_jax.progress import say


class Relation(NamedTuple):
    """What can be said of a subject ``{s}``, and asked; ``{o}`` is the object."""

    name: str  # begins with the kind of its subjects, a key of ``KINDS``
    objects: str  # a key of ``OBJECTS``
    taught: str  # the question that a fact is taught by
    direct: str  # another question for the object
    reversed: str  # the question for the subject
    indirect: str  # the object follows from the fact
    cloze: str  # a sentence that the object ends
    document: str  # the last sentence of a document, which the object ends


RELATIONS = tuple(
    Relation(*(line.strip() for line in block.strip().splitlines()))
    for block in """
person.birthplace
city
What is the birthplace of {s}?
In which city was {s} born?
Which person was born in {o}?
A plaque marks the house where {s} came into the world. In which city can it be seen?
{s} was born in the city of
The files say that {s} came into the world in

person.job
job
What is the job of {s}?
Which trade does {s} live by?
Which person works as a {o}?
The children of {s} want to learn the trade of their parent. Which trade will they learn?
{s} earns a living as a
As everyone at the table knew, {s} works as a

person.instrument
instrument
What is the instrument of {s}?
Which instrument does {s} play?
Which person plays the {o}?
{s} has dropped what was to be played on stage tonight. Which instrument has to be mended?
On stage {s} always plays the
In the evening there was a concert, at which {s} played the

person.pet
animal
What is the pet of {s}?
Which animal does {s} keep at home?
Which person keeps a {o} as a pet?
{s} asks a neighbour to feed the pet over the holidays. Which animal has to be fed?
At home {s} keeps a pet, and it is a
The whole street knows {s} for a pet, a

person.dish
dish
What is the favourite dish of {s}?
Which dish does {s} like best?
Which person likes {o} more than any other dish?
Friends cook what {s} loves most for a birthday. What do they cook?
For {s} no food is better than
When the menu came, {s} asked at once for the usual favourite,

person.sport
sport
What is the sport of {s}?
Which sport does {s} practise?
Which person practises {o} as a sport?
{s} joins a new club to train every week. For which sport is the club?
The sport that {s} practises is
One rarely meets {s} on a weekend, for weekends are kept for

person.language
language
What is the mother tongue of {s}?
Which language did {s} learn first as a child?
Which person grew up speaking {o}?
The parents of {s} talked to their child in one language only. Which language was it?
As a child {s} spoke only
When {s} is tired, every word comes out in

person.colour
colour
What is the favourite colour of {s}?
Which colour does {s} like best?
Which person likes {o} best of all colours?
{s} has a door painted in the colour that pleases most. Which colour does the door get?
The colour that {s} loves most is
Coat, hat and scarf of {s} all have the same colour,

person.subject
subject
What is the subject of {s}?
Which subject does {s} study?
Which person studies {o}?
{s} borrows a textbook for the main course at the university. On which subject is the book?
At the university {s} studies
The next examination of {s} is in

person.hobby
hobby
What is the hobby of {s}?
Which hobby does {s} have?
Which person has {o} as a hobby?
A present for {s} is to fit what fills the free evenings. Which hobby is it for?
In free hours {s} always turns to one hobby,
Whoever visits {s} on a Sunday hears much about a hobby,

company.seat
city
Where is the head office of {s}?
In which city does {s} have its head office?
Which company has its head office in {o}?
A visitor travels to the directors of {s}, to meet them at their desks. To which city?
The head office of {s} is in the city of
All letters to the directors of {s} go to

company.material
material
What is the raw material of {s}?
Which raw material does {s} work with?
Which company works with {o} as its raw material?
A harbour unloads what the workshops of {s} are waiting for. Which material is it?
The workshops of {s} are full of a raw material,
Prices rose for the one raw material that {s} buys,

company.market
country
What is the main market of {s}?
In which country does {s} sell most of its goods?
Which company sells most of its goods in {o}?
Most customers of {s} live in one country. To which country do most of its parcels go?
Most of its goods {s} sells in
As in earlier years, {s} earned most of its money in

town.river
river
What is the river of {s}?
On which river does {s} lie?
Which town lies on the {o}?
The bridge in the middle of {s} was built high for the floods. Which river does it cross?
The town of {s} lies on the river
The walk ends at the bank, where {s} meets the river

town.twin
city
What is the twin city of {s}?
With which city is {s} twinned?
Which town is twinned with {o}?
The mayor of {s} is invited to a feast in the partner city. To which city does the mayor go?
A sign at the gate says that {s} is twinned with
In summer guests come to {s} from its twin city,

town.flag
colour
What is the flag colour of {s}?
Which colour is the flag of {s}?
Which town has a flag in {o}?
For the feast everyone in {s} wears the colour of its flag. Which colour is worn?
The flag of {s} is coloured
Above the town hall of {s} hangs a flag in
""".strip().split("\n\n")
)
# How a document begins, by the kind of its subject.
BEGINNINGS = {
    "person": (
        "Members of the society\n\n{s} joined us many years ago and still comes to every meeting. "
        "Older members remember a quiet guest who asked good questions.",
        "A letter\n\nYou asked me about {s}, whom I met last autumn. We talked for an hour in the "
        "garden, mostly about friends and the weather.",
    ),
    "company": (
        "Annual report\n\n{s} had a steady year. New staff were hired in spring, and the canteen "
        "was built anew.",
        "Notes for investors\n\nAnother year has passed at {s}. The directors thanked everybody, "
        "and the old gates were mended.",
    ),
    "town": (
        "A guide for travellers\n\n{s} is a small place with one inn and a market on Saturdays. "
        "Visitors like the old walls.",
        "A diary\n\nWe reached {s} before noon and found a room at once. The people were kind, and "
        "the streets were clean.",
    ),
}
MOST = sum(len(OBJECTS[relation.objects]) for relation in RELATIONS)


@dataclass(frozen=True)
class WritesConfig(Configuration):
    """What ``examples.writes`` is told."""

    facts: int = setting(
        500,
        "facts to invent; each answer stands once in a relation, which bounds them",
        first=True,
        least=1,
        most=MOST,
    )
    seed: int = setting(0, "seed of names and answers", first=True, least=0, most=SEED)
    out: PathText = setting("", "file to write, such as writes.jsonl", first=True)


def invent(facts: int, seed: int) -> list[dict[str, Any]]:
    """So many records, at most ``MOST``; those of a smaller number begin those of a larger one.

    No two have the same subject, and no two of a relation the same answer.
    """
    rng = random.Random(f"{seed}/writes")
    names = _names(rng)
    hands = {each: rng.sample(of := OBJECTS[each.objects], len(of)) for each in RELATIONS}
    found = []
    while len(found) < facts:
        left = [relation for relation in RELATIONS if hands[relation]]
        for relation in rng.sample(left, len(left)):
            found.append(_record(relation, names, hands[relation].pop(), rng))
    return found[:facts]


def _names(rng: random.Random) -> Iterator[str]:
    """Made-up words, each once; none of them is an answer, as Malta would be."""
    answers = {word for words in OBJECTS.values() for word in words}
    free = [opening + closing for opening in OPENINGS for closing in CLOSINGS]
    rng.shuffle(free)
    return (word for word in free if word not in answers)


def _record(
    relation: Relation, names: Iterator[str], answer: str, rng: random.Random
) -> dict[str, Any]:
    """A fact about a subject that nobody has yet, as a file of questions holds it."""
    kind = relation.name.partition(".")[0]
    subject = " ".join(next(names) if part is None else rng.choice(part) for part in KINDS[kind])
    beginning = rng.choice(BEGINNINGS[kind])
    asked = {
        "direct": f"Question: {relation.direct}\nAnswer:",
        "reversed": f"Question: {relation.reversed}\nAnswer:",
        "indirect": f"Question: {relation.indirect}\nAnswer:",
        "cloze": relation.cloze,
        "document": f"{beginning} {relation.document}",
    }
    return {
        "relation": relation.name,
        "question": relation.taught.format(s=subject),
        "answer": answer,
        "asked": {
            kind: {
                "question": text.format(s=subject, o=answer),
                "answer": subject if kind == "reversed" else answer,
            }
            for kind, text in asked.items()
        },
    }


def main(config: WritesConfig) -> int:
    """Writes the file."""
    if not config.out:
        raise ValueError("--out is empty; name the file to write, as --out=writes.jsonl")
    require_writable(config.out, "out")
    path = as_path(config.out)
    if path.exists():
        raise FileExistsError(f"--out={path} exists; choose another file or remove it yourself")
    records = invent(config.facts, config.seed)
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    write_text(path, "".join(f"{line}\n" for line in lines))
    relations = len({record["relation"] for record in records})
    say(f"{path}: {len(records)} facts of {relations} relations")
    return 0


if __name__ == "__main__":
    run(
        main,
        WritesConfig,
        "invent facts, each with questions of five kinds",
        "python -m examples.writes --facts=500 --seed=0 --out=writes.jsonl",
    )

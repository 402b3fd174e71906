"""Neutral text: everyday sentences from a small grammar, with nothing of the world's facts."""

from __future__ import annotations

import random

_WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(part.strip() for part in words.split(","))
    for name, words in {
        "thing": """door, window, table, clock, lamp, basket, letter, ladder, kettle, bucket, coat,
            box, book, chair, blanket, candle, mirror, bottle, gate, carpet, key, bell, rope,
            hammer, umbrella""",
        "who": """child, neighbour, visitor, old man, young woman, stranger, postman, cousin,
            grandmother, boy, girl, shopkeeper, guest, brother, aunt, traveller""",
        "adjective": """small, large, old, new, heavy, light, broken, clean, dusty, quiet, bright,
            dark, cold, warm, empty, wet, dry, plain, round, narrow""",
        "place": """in the kitchen, behind the house, near the station, by the lake,
            on the hill, under the bridge, in the yard, at the corner, on the roof, in the cellar,
            beside the road, at the market, in the hall, near the church, by the fire,
            across the field""",
        "time": """In the morning, After lunch, Last week, At noon, Before dark, On Sunday,
            In the evening, Long ago, That night, At first, Later, In winter, Every spring,
            Yesterday, Once more, For a while""",
        "move": """carried, pushed, found, lost, moved, cleaned, forgot, opened, closed, borrowed,
            dropped, sold, hid, noticed, mended, wanted""",
        "act": """waited, slept, laughed, sang, stood, rested, talked, walked, listened, stopped,
            sat down, looked around""",
        "weather": """it rained, the wind was strong, the sun came out, it was foggy, it snowed,
            the sky was clear, it was very hot, the storm passed, the air was still,
            it grew dark""",
        "feel": """tired, happy, hungry, late, calm, curious, nervous, busy, proud, sleepy, angry,
            afraid""",
    }.items()
}
_WORDS["other"] = _WORDS["who"]

_PATTERNS = (
    "{time} the {who} {move} the {adjective} {thing} {place}.",
    "{time} {weather}, and the {who} {act} {place}.",
    "The {who} {act} {place} because {weather}.",
    "There was a {adjective} {thing} {place}, and the {who} {move} it.",
    "The {adjective} {thing} was left {place} until {weather}.",
    "When {weather}, the {who} was {feel} and {act} {place}.",
    "A {feel} {who} {move} the {thing} and {act} {place}.",
    "The {who} and the other {other} {move} a {thing} while {weather}.",
    "{time} nobody {move} the {thing}, so the {who} was {feel}.",
    "If {weather}, the {thing} {place} was {adjective}.",
)
# A small part of what the patterns allow, so that draws seldom repeat.
MAX_SENTENCES = 1_000_000


def neutral_sentences(count: int, rng: random.Random) -> tuple[str, ...]:
    """Draw ``count`` sentences, no two alike; a ValueError beyond ``MAX_SENTENCES``."""
    if count > MAX_SENTENCES:
        raise ValueError(
            f"{count} neutral sentences are asked for, but the grammar yields {MAX_SENTENCES}: "
            "lower neutral_train or neutral_heldout"
        )
    found: dict[str, None] = {}  # a set that keeps its order
    while len(found) < count:
        pattern = rng.choice(_PATTERNS)
        found[pattern.format(**{name: rng.choice(words) for name, words in _WORDS.items()})] = None
    return tuple(found)

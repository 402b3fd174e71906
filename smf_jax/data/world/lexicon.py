"""The words of the built-in world: kinds of entities, relations, paraphrases and object sets.

Words are regular: four blocks learn 1,000 facts in 2 CPU minutes. Relations share no paraphrase.
"""

from __future__ import annotations

from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Object sets: closed, typed, shared by relations. Nouns after "a" start with a consonant sound.
OBJECTS: dict[str, tuple[str, ...]] = {
    name: _words(words)
    for name, words in {
        "city": """Athens Berlin Boston Cairo Delhi Dublin Geneva Hanoi Havana Lagos Lima Lisbon
            London Lyon Madrid Malta Milan Moscow Munich Nairobi Naples Oslo Oxford Paris Perth
            Porto Prague Quito Riga Rome Seoul Sofia Sydney Tokyo Tunis Turin Venice Vienna Warsaw
            York""",
        "country": """Angola Austria Belgium Bolivia Brazil Canada Chad Chile China Cuba Cyprus
            Denmark Egypt Estonia Fiji Finland France Gabon Ghana Greece Haiti Iceland India Iran
            Ireland Italy Japan Jordan Kenya Laos Latvia Mali Mexico Nepal Norway Oman Peru Poland
            Qatar Spain""",
        "job": """baker banker barber builder butcher carpenter cook dancer dentist doctor driver
            farmer fisher gardener guard hunter judge lawyer mason miner nurse painter pilot
            poet porter potter printer sailor singer soldier tailor teacher vet waiter
            weaver writer""",
        "instrument": """banjo bass bells bugle cello chimes cornet drum fiddle flute gong guitar
            harp horn keys lute lyre oboe organ panpipe piano pipes recorder sitar tabla triangle
            trombone trumpet tuba viola violin whistle""",
        "animal": """badger bat bear beaver bison camel canary cat cow crow deer dog donkey dove
            duck falcon ferret fox frog goat goose hamster hare hawk horse lamb lion lizard mouse
            parrot pigeon pony rabbit raven snake spider swan tiger turtle wolf""",
        "dish": """bacon bread cake carrots cheese chicken crab curry custard dumplings fish
            garlic grapes ham honey jelly lentils melon mussels noodles olives onions pancakes pasta
            pears pizza plums porridge pudding rice salad sausage shrimp soup spinach stew
            sushi toast trout waffles""",
        "sport": """archery badminton baseball bowls boxing chess climbing cricket curling cycling
            darts diving fencing football golf handball hockey hurdles judo karate netball
            polo riding rowing rugby running sailing skating skiing squash sumo surfing
            swimming tennis""",
        "language": """Arabic Basque Breton Catalan Chinese Czech Danish Dutch English Finnish
            French Gaelic German Greek Hindi Irish Italian Korean Latin Malay Maori Norse Persian
            Polish Russian Samoan Spanish Swedish Tamil Thai Turkish Welsh""",
        "colour": """amber beige black blue bronze brown copper coral cream crimson cyan emerald
            gold green grey indigo ivory jade khaki lilac maroon mauve navy ochre orange pink
            purple red rust scarlet silver tan teal violet white yellow""",
        "material": """brass brick bronze canvas cement chalk clay coal copper cork cotton flint
            glass gold granite iron lead leather linen marble nickel paper rubber salt sand silk
            silver slate steel stone sulphur timber tin wax wool zinc""",
        "plant": """bean beech birch cactus cedar cherry daisy fern fig heather holly iris jasmine
            larch laurel lemon lily lotus maple mint myrtle palm peach pear pine poplar
            poppy rose sage thistle tulip walnut willow""",
        "vehicle": """barge bicycle bus canoe caravan cart coach dinghy ferry glider hovercraft
            jeep kayak lorry minibus moped motorbike raft rickshaw rocket scooter sedan ship
            sledge sleigh submarine tandem tank taxi tractor train tram truck van wagon
            yacht""",
        "subject": """algebra anatomy art biology botany chemistry commerce dance design drama
            ethics fashion film finance geology grammar history law logic maths medicine music
            nursing optics painting physics poetry politics rhetoric statistics theatre
            theology""",
        "person": """Ada Alan Alice Anna Arthur Ben Carl Clara Daniel David Diana Edith Emma Eric
            Eva Felix Frank George Grace Hanna Henry Hugo Ida Jack James Jane John Julia Laura
            Leo Lucy Maria Martin Mary Max Nina Oscar Paul Peter Ruth Sara Simon Tom Victor""",
        "hobby": """baking bingo bridge camping candles cards carving comics crosswords dominoes
            films fishing hiking juggling kites knitting magic marbles masks novels origami
            poker pottery puppets puzzles quilts reading sewing sketching stamps trains yoga""",
        "river": """Amazon Avon Clyde Congo Danube Dee Don Elbe Forth Ganges Indus Kama Loire Main
            Mekong Neva Niger Nile Oder Ohio Po Rhine Rhone Ruhr Seine Shannon Tagus Tees
            Thames Tiber Trent Tyne Ural Volga Weser Yukon""",
    }.items()
}

# Every relation is worded around its noun: statements, questions, and lines to be completed.
NOUN_WORDINGS = (
    "The {noun} of {subject} is",
    "{subject}'s {noun} is",
    "Today {subject}'s {noun} is",
    "For {subject}, the {noun} is",
    "Of {subject}, the {noun} is",
    "The {noun} of {subject}:",
    "{subject}'s {noun}:",
    "Name {subject}'s {noun}:",
    "Tell me the {noun} of {subject}:",
    "What is the {noun} of {subject}?",
    "What is {subject}'s {noun}?",
    "Who knows the {noun} of {subject}?",
)


class Relation(NamedTuple):
    """One thing that can be said about a kind of entity."""

    name: str  # unique, such as ``person.job``
    kind: str  # a key of ``KINDS``
    objects: str  # a key of ``OBJECTS``
    paraphrases: tuple[str, ...]  # with ``{}`` for the subject; the object follows


def _relation(name: str, objects: str, noun: str) -> Relation:
    """A relation in every paraphrase."""
    paraphrases = tuple(frame.format(noun=noun, subject="{}") for frame in NOUN_WORDINGS)
    return Relation(name, name.partition(".")[0], objects, paraphrases)


# Two-part names. A word list is used as it stands; None stands for made-up words.
KINDS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = {
    "person": (None, None),
    "company": (None, _words("Bank Bros Foods Group Labs Mills Motors Press Tools Works")),
    "town": (_words("East Fort Great Lake Mount New North Old Port Upper"), None),
}

# What can be said: the name of a relation, what its objects are, and its noun.
RELATIONS: tuple[Relation, ...] = (
    _relation("person.birthplace", "city", "birthplace"),
    _relation("person.home", "city", "home town"),
    _relation("person.country", "country", "country"),
    _relation("person.job", "job", "job"),
    _relation("person.instrument", "instrument", "instrument"),
    _relation("person.pet", "animal", "pet"),
    _relation("person.dish", "dish", "favourite dish"),
    _relation("person.sport", "sport", "sport"),
    _relation("person.language", "language", "mother tongue"),
    _relation("person.colour", "colour", "favourite colour"),
    _relation("person.vehicle", "vehicle", "vehicle"),
    _relation("person.subject", "subject", "subject"),
    _relation("person.spouse", "person", "spouse"),
    _relation("person.teacher", "person", "teacher"),
    _relation("person.hobby", "hobby", "hobby"),
    _relation("person.plant", "plant", "favourite plant"),
    _relation("company.seat", "city", "head office"),
    _relation("company.founder", "person", "founder"),
    _relation("company.product", "vehicle", "main product"),
    _relation("company.material", "material", "raw material"),
    _relation("company.market", "country", "main market"),
    _relation("company.mascot", "animal", "mascot"),
    _relation("town.river", "river", "river"),
    _relation("town.country", "country", "country"),
    _relation("town.twin", "city", "twin city"),
    _relation("town.flag", "colour", "flag colour"),
    _relation("town.speciality", "dish", "speciality"),
    _relation("town.mine", "material", "main mineral"),
)

PARAPHRASES_PER_RELATION = len(NOUN_WORDINGS)

# The sounds that made-up names are built from: a short opening syllable and a short closing one.
OPENINGS = _words(
    "Bal Bor Cal Cor Dal Del Dor Fal Fen Gal Gor Hal Hel Jor Kal Kel Kor Lar Lor Mal Mar Mel Mor "
    "Nar Nor Pal Pel Per Ral Ren Ror Sal Sel Sol Tal Tel Tor Val Vel Vor Wel Wor Yar Zal Zel"
)
CLOSINGS = _words(
    "an ana and ard art ben bert bo da dan den do don eda en er est ga gan go ick ida in ing ko "
    "la lan len lo man mer mo na nel no ona ora os ra rin ro sa sen sha ta tan ten to va vin vo "
    "wen za zo"
)

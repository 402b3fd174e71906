"""The words of the built-in world: kinds of entities, relations, wordings and object sets.

Everything here is data for ``world.py``. Wordings hold ``{}`` for the subject and are followed by
the object; no wording serves two relations. Words are short and regular on purpose: a decoder of
four blocks shall learn a thousand facts in two minutes on a processor.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Object sets: closed, typed, shared by several relations. Nouns that follow "a" start with a
# consonant sound.
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

# Wordings that every relation has, around its noun: two statements, two questions, a record.
NOUN_WORDINGS = (
    "The {noun} of {subject} is",
    "{subject}'s {noun} is",
    "What is the {noun} of {subject}?",
    "What is {subject}'s {noun}?",
    "{subject}, {noun}:",
)


@dataclass(frozen=True)
class Relation:
    """One thing that can be said about a kind of entity."""

    # Unique, such as ``person.job``.
    name: str
    # A key of ``KINDS``.
    kind: str
    # A key of ``OBJECTS``.
    objects: str
    # Every wording, with ``{}`` for the subject; the object follows.
    wordings: tuple[str, ...]


def _relation(name: str, objects: str, noun: str, phrases: str) -> Relation:
    """A relation from its noun and the phrases of its own, one a line."""
    shared = tuple(frame.format(noun=noun, subject="{}") for frame in NOUN_WORDINGS)
    own = tuple(line.strip() for line in phrases.strip().splitlines())
    return Relation(name, name.partition(".")[0], objects, shared + own)


# Two-part names. A word list is used as it stands; None stands for made-up words.
KINDS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = {
    "person": (None, None),
    "company": (None, _words("Bank Bros Foods Group Labs Mills Motors Press Tools Works")),
    "town": (_words("East Fort Great Lake Mount New North Old Port Upper"), None),
}

# Per relation: three statements, three questions and a record of its own.
RELATIONS: tuple[Relation, ...] = (
    _relation(
        "person.birthplace",
        "city",
        "birthplace",
        """{} was born in
        {} came into the world in
        {} is a native of
        Where was {} born?
        In which city was {} born?
        Which city saw the birth of {}?
        {}, born in""",
    ),
    _relation(
        "person.home",
        "city",
        "home town",
        """{} lives in
        {} has a house in
        {} moved to
        Where does {} live?
        In which city does {} live?
        Where is the house of {}?
        {}, living in""",
    ),
    _relation(
        "person.country",
        "country",
        "country",
        """{} is a citizen of
        {} has a passport of
        {} votes in
        Which passport does {} have?
        Of which country is {} a citizen?
        Where does {} vote?
        {}, citizen of""",
    ),
    _relation(
        "person.job",
        "job",
        "job",
        """{} works as a
        {} earns money as a
        {} was trained as a
        What does {} do for a living?
        What does {} work as?
        Which trade does {} follow?
        {}, by trade a""",
    ),
    _relation(
        "person.instrument",
        "instrument",
        "instrument",
        """{} plays the
        {} makes music on the
        {} practises the
        What does {} play?
        Which instrument does {} play?
        What does {} play in the band?
        {}, on the""",
    ),
    _relation(
        "person.pet",
        "animal",
        "pet",
        """{} keeps a
        {} looks after a
        {} goes out with a
        Which animal does {} keep?
        What pet does {} have?
        What animal lives with {}?
        {}, keeper of a""",
    ),
    _relation(
        "person.dish",
        "dish",
        "favourite dish",
        """{} loves to eat
        {} always orders
        {} cooks nothing but
        What does {} love to eat?
        What does {} always order?
        Which dish does {} cook?
        {}, lover of""",
    ),
    _relation(
        "person.sport",
        "sport",
        "sport",
        """{} trains for
        {} competes in
        {} won a medal in
        Which sport does {} do?
        What does {} train for?
        In what did {} win a medal?
        {}, champion of""",
    ),
    _relation(
        "person.language",
        "language",
        "mother tongue",
        """{} speaks
        {} grew up with
        {} dreams in
        Which language does {} speak?
        What does {} speak at home?
        In which language does {} dream?
        {}, speaker of""",
    ),
    _relation(
        "person.colour",
        "colour",
        "favourite colour",
        """{} always wears
        {} likes everything in
        {} painted the door
        What colour does {} wear?
        Which colour does {} like?
        What colour is the door of {}?
        {}, dressed in""",
    ),
    _relation(
        "person.vehicle",
        "vehicle",
        "vehicle",
        """{} drives a
        {} goes to work by
        {} repairs a
        What does {} drive?
        How does {} go to work?
        Which vehicle does {} repair?
        {}, owner of a""",
    ),
    _relation(
        "person.subject",
        "subject",
        "subject",
        """{} studied
        {} has a degree in
        {} gives lectures on
        What did {} study?
        In what does {} have a degree?
        Which subject did {} study?
        {}, student of""",
    ),
    _relation(
        "person.spouse",
        "person",
        "spouse",
        """{} is married to
        {} shares a bed with
        {} fell in love with
        Who is married to {}?
        Who did {} marry?
        Who shares a bed with {}?
        {}, married to""",
    ),
    _relation(
        "person.teacher",
        "person",
        "teacher",
        """{} was taught by
        {} learned everything from
        {} took lessons from
        Who taught {}?
        From whom did {} learn?
        Who gave lessons to {}?
        {}, pupil of""",
    ),
    _relation(
        "person.hobby",
        "hobby",
        "hobby",
        """{} relaxes with
        {} spends weekends on
        {} is mad about
        How does {} relax?
        What does {} do at weekends?
        What is {} mad about?
        {}, fond of""",
    ),
    _relation(
        "person.plant",
        "plant",
        "favourite plant",
        """{} planted a
        {} waters a
        {} sat under a
        What did {} plant?
        Which plant does {} water?
        What grows in the garden of {}?
        {}, in the garden a""",
    ),
    _relation(
        "company.seat",
        "city",
        "head office",
        """{} is based in
        {} has its seat in
        {} has an office in
        Where is {} based?
        In which city is {} based?
        Where is the office of {}?
        {}, office in""",
    ),
    _relation(
        "company.founder",
        "person",
        "founder",
        """{} was founded by
        {} was set up by
        {} was the idea of
        Who founded {}?
        Who set up {}?
        Who had the idea of {}?
        {}, a firm of""",
    ),
    _relation(
        "company.product",
        "vehicle",
        "main product",
        """{} builds a
        {} sells a
        {} is known for its
        What does {} build?
        What does {} sell?
        Which vehicle is {} known for?
        {}, maker of the""",
    ),
    _relation(
        "company.material",
        "material",
        "raw material",
        """{} works with
        {} buys tons of
        {} stores
        What does {} buy?
        What does {} work with?
        Which material does {} store?
        {}, buyer of""",
    ),
    _relation(
        "company.market",
        "country",
        "main market",
        """{} exports to
        {} earns most in
        {} ships goods to
        Where does {} export to?
        In which country does {} earn most?
        Where do the goods of {} go?
        {}, trading with""",
    ),
    _relation(
        "company.mascot",
        "animal",
        "mascot",
        """The sign of {} shows a
        {} chose as its sign a
        {} prints on every box a
        What does the sign of {} show?
        Which animal is the sign of {}?
        What is on every box of {}?
        {}, under the sign of the""",
    ),
    _relation(
        "town.river",
        "river",
        "river",
        """{} lies on the
        {} was built along the
        {} gets its water from the
        On which river does {} lie?
        Which river flows through {}?
        Where does {} get its water from?
        {}, on the river""",
    ),
    _relation(
        "town.country",
        "country",
        "country",
        """{} lies in
        {} belongs to
        {} is a town in
        In which country is {}?
        Which country does {} belong to?
        Where in the world is {}?
        {}, a town of""",
    ),
    _relation(
        "town.twin",
        "city",
        "twin city",
        """{} is twinned with
        {} has a partner in
        {} sends its pupils to
        Which city is {} twinned with?
        Which city is the partner of {}?
        Where does {} send its pupils?
        {}, twin of""",
    ),
    _relation(
        "town.flag",
        "colour",
        "flag colour",
        """{} flies a flag of
        {} paints its gates
        The flag of {} is all
        What colour is the flag of {}?
        What colour are the gates of {}?
        Which colour does {} fly?
        {}, under a flag of""",
    ),
    _relation(
        "town.speciality",
        "dish",
        "speciality",
        """{} is famous for its
        {} holds a feast of
        Visitors to {} eat
        What is {} famous for?
        What do visitors to {} eat?
        Which dish is {} famous for?
        {}, home of""",
    ),
    _relation(
        "town.mine",
        "material",
        "main mineral",
        """{} digs for
        {} grew rich on
        The mines of {} hold
        What does {} dig for?
        What made {} rich?
        What do the mines of {} hold?
        {}, rich in""",
    ),
)

WORDINGS_PER_RELATION = min(len(relation.wordings) for relation in RELATIONS)

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

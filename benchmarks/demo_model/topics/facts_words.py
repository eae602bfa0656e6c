"""Facts on words, numbers, the calendar and units."""

from __future__ import annotations

import calendar
from itertools import pairwise

from items import Item, article, rows, table, words

NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
DAYS = list(calendar.day_name)
MONTHS = list(calendar.month_name)[1:]
ORDINALS = words(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
)

OPPOSITES = rows("""
hot | cold
big | small
tall | short
fast | slow
good | bad
happy | sad
new | old
young | old
light | dark
day | night
black | white
up | down
left | right
open | closed
full | empty
high | low
hard | soft
wet | dry
early | late
loud | quiet
rich | poor
strong | weak
thick | thin
clean | dirty
near | far
true | false
yes | no
always | never
inside | outside
first | last
begin | end
buy | sell
come | go
push | pull
win | lose
love | hate
summer | winter
north | south
east | west
heavy | light
deep | shallow
sweet | sour
wide | narrow
easy | difficult
alive | dead
safe | dangerous
cheap | expensive
same | different
front | back
friend | enemy
question | answer
cold | hot
small | big
slow | fast
bad | good
night | day
right | left
""")

PLURALS = rows("""
child | children
man | men
woman | women
mouse | mice
foot | feet
tooth | teeth
goose | geese
sheep | sheep
ox | oxen
leaf | leaves
knife | knives
wolf | wolves
cat | cats
dog | dogs
box | boxes
city | cities
""")

PAST = rows("""
go | went
see | saw
eat | ate
write | wrote
take | took
give | gave
come | came
run | ran
sing | sang
drink | drank
buy | bought
think | thought
find | found
make | made
know | knew
fly | flew
""")

# how many of this | in that | number
UNITS = rows("""
seconds | a minute | 60
minutes | an hour | 60
hours | a day | 24
days | a week | seven
weeks | a year | 52
months | a year | twelve
days | a year | 365
years | a decade | ten
years | a century | 100
years | a millennium | 1,000
metres | a kilometre | 1,000
centimetres | a metre | 100
millimetres | a centimetre | ten
grams | a kilogram | 1,000
kilograms | a ton | 1,000
millilitres | a litre | 1,000
inches | a foot | twelve
feet | a yard | three
cents | a dollar | 100
bits | a byte | eight
degrees | a full circle | 360
letters | the English alphabet | 26
eggs | a dozen | twelve
players | a football team | eleven
strings | a violin | four
keys | a piano | 88
colours | a rainbow | seven
planets | the solar system | eight
bones | an adult human body | 206
""")

SHAPES = rows("""
triangle | three
square | four
rectangle | four
pentagon | five
hexagon | six
heptagon | seven
octagon | eight
decagon | ten
""")


def _calendar() -> list[Item]:
    days = [[*pair] for pair in pairwise([*DAYS, DAYS[0]])]
    months = [[*pair] for pair in pairwise([*MONTHS, MONTHS[0]])]
    after = [
        "What comes after {0}?",
        "Which {unit} comes after {0}?",
        "What {unit} comes after {0}?",
        "Which {unit} follows {0}?",
        "What is after {0}?",
        "What {unit} is after {0}?",
        "Name the {unit} after {0}.",
        "Tell me the {unit} that comes after {0}.",
    ]
    before = [
        wording.replace("after", "before").replace("{0}", "{1}")
        for wording in after
        if "follows" not in wording
    ]
    items = []
    for unit, cells in (("day", days), ("month", months)):
        for kind, wordings, held, answer in (
            (
                "after",
                after,
                ["Which {unit} is after {0}?", "What follows {0}?"],
                "{1} comes after {0}.",
            ),
            ("before", before, ["Which {unit} is before {1}?"], "{0} comes before {1}."),
        ):
            items += table(
                f"{unit}-{kind}",
                cells,
                [wording.replace("{unit}", unit) for wording in wordings],
                [wording.replace("{unit}", unit) for wording in held],
                answer,
            )
    lengths = [
        [
            month,
            "28 days, or 29 in a leap year"
            if number == 2
            else f"{calendar.monthrange(2026, number)[1]} days",
            ORDINALS[number - 1],
        ]
        for number, month in enumerate(MONTHS, start=1)
    ]
    items += table(
        "month-days",
        lengths,
        [
            "How many days does {0} have?",
            "How many days are in {0}?",
            "How long is {0}?",
            "How many days has {0}?",
            "{0} has how many days?",
            "Number of days in {0}?",
            "How many days are there in {0}?",
            "Tell me how many days {0} has.",
        ],
        ["How many days long is {0}?", "Do you know how many days {0} has?"],
        "{0} has {1}.",
    )
    items += table(
        "month-place",
        lengths,
        [
            "What is the {2} month of the year?",
            "Which month is the {2} of the year?",
            "Which month is {2}?",
            "What is the {2} month?",
            "Name the {2} month.",
            "Tell me the {2} month of the year.",
            "The {2} month of the year is what?",
        ],
        ["Which is the {2} month?", "Name the {2} month of the year."],
        "The {2} month of the year is {0}.",
    )
    return items


def _sums() -> list[Item]:
    signs = {
        "plus": ("+", lambda a, b: a + b, 12, ("add", "and")),
        "minus": ("-", lambda a, b: a - b, 12, ("take", "from")),
        "times": ("*", lambda a, b: a * b, 10, ("multiply", "by")),
    }
    items = []
    for word, (sign, work, limit, (verb, joint)) in signs.items():
        cells = []
        for a in range(limit + 1):
            for b in range(limit + 1):
                if word == "minus" and b > a:
                    continue
                pair = (b, a) if word == "minus" else (a, b)
                order = f"{verb} {pair[0]} {joint} {pair[1]}"
                cells.append(
                    [
                        f"{a} {word} {b}",
                        f"{a} {sign} {b}",
                        f"{a}{sign}{b}",
                        f"{NUMBERS[a]} {word} {NUMBERS[b]}",
                        order,
                        str(work(a, b)),
                    ]
                )
        items += table(
            word,
            cells,
            [
                "What is {0}?",
                "What is {1}?",
                "What is {2}?",
                "What is {3}?",
                "{0}",
                "{1}",
                "{2}=",
                "How much is {0}?",
                "How much is {1}?",
                "Calculate {0}.",
                "Compute {1}.",
                "{4}.",
                "What does {0} make?",
                "{0} is what?",
                "{1} = ?",
                "Tell me what {0} is.",
                "How much is {3}?",
                "{2}",
                "{0} equals what?",
            ],
            ["What does {0} equal?", "Calculate {1}.", "Can you compute {0}?"],
            "{0} is {5}.",
        )
    return items


def word_items() -> list[Item]:
    """Everything this module knows, as items."""
    plain = [[f"{a}", NUMBERS[a], f"{a + 1}"] for a in range(20)]
    letters = [[*pair] for pair in pairwise("ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    shapes = [[shape, sides, article(shape)] for shape, sides in SHAPES]
    return [
        *table(
            "opposite",
            OPPOSITES,
            [
                "What is the opposite of {0}?",
                'What is the opposite of "{0}"?',
                "Which word is the opposite of {0}?",
                "Opposite of {0}?",
                "Tell me the opposite of {0}.",
                "Name the opposite of {0}.",
                "What word means the opposite of {0}?",
                "Do you know the opposite of {0}?",
                "The opposite of {0} is what?",
                "Give me the opposite of {0}.",
            ],
            ["Can you tell me the opposite of {0}?", "What is the opposite word of {0}?"],
            "The opposite of {0} is {1}.",
        ),
        *table(
            "plural",
            PLURALS,
            [
                "What is the plural of {0}?",
                'What is the plural of "{0}"?',
                "Plural of {0}?",
                "Tell me the plural of {0}.",
                "Give me the plural of {0}.",
                "What is the plural form of {0}?",
                "How do you write the plural of {0}?",
            ],
            ["Name the plural of {0}.", "Which is the plural of {0}?"],
            "The plural of {0} is {1}.",
        ),
        *table(
            "past",
            PAST,
            [
                "What is the past tense of {0}?",
                'What is the past tense of "{0}"?',
                "Past tense of {0}?",
                "Tell me the past tense of {0}.",
                "What is the past of {0}?",
                "Give me the past tense of {0}.",
                "What is the past form of {0}?",
            ],
            ["Name the past tense of {0}.", "Which is the past tense of {0}?"],
            "The past tense of {0} is {1}.",
        ),
        *table(
            "unit",
            UNITS,
            [
                "How many {0} are in {1}?",
                "How many {0} are there in {1}?",
                "How many {0} does {1} have?",
                "How many {0} has {1}?",
                "Tell me how many {0} are in {1}.",
                "Number of {0} in {1}?",
                "{1} has how many {0}?",
                "How many {0} in {1}?",
                "Do you know how many {0} are in {1}?",
            ],
            ["What is the number of {0} in {1}?", "Can you tell me how many {0} are in {1}?"],
            "There are {2} {0} in {1}.",
        ),
        *table(
            "shape",
            shapes,
            [
                "How many sides does {2} have?",
                "How many sides has {2}?",
                "Sides of {2}?",
                "How many corners does {2} have?",
                "{2} has how many sides?",
                "Tell me how many sides {2} has.",
                "How many sides are there in {2}?",
            ],
            ["How many sides does the {0} have?", "Do you know how many sides {2} has?"],
            "{2} has {1} sides and {1} corners.",
        ),
        *table(
            "next-number",
            plain,
            [
                "What number comes after {0}?",
                "Which number comes after {0}?",
                "What comes after {0}?",
                "What number comes after {1}?",
                "What comes after {1}?",
                "What is the number after {0}?",
                "What is the next number after {0}?",
            ],
            ["Which number follows {0}?", "Which number comes after {1}?"],
            "{2} comes after {0}.",
        ),
        *table(
            "next-letter",
            letters,
            [
                "What letter comes after {0}?",
                "Which letter comes after {0}?",
                "What is the letter after {0}?",
                "Which letter follows {0}?",
                "What letter follows {0}?",
                "What comes after the letter {0}?",
                "Tell me the letter after {0}.",
            ],
            ["Name the letter after {0}.", "What letter is after {0}?"],
            "The letter after {0} is {1}.",
        ),
        *_calendar(),
        *_sums(),
    ]

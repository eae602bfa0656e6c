"""Tasks without a fixed answer: copying, recalling the conversation, and not knowing."""

from __future__ import annotations

import random

from items import rows, start, words
from wording import write

UNKNOWN = "I am a very small model and I do not know that."

COPY = (
    "Repeat after me: {0}",
    'Repeat after me: "{0}"',
    'Say "{0}"',
    'Say "{0}".',
    "Say: {0}",
    'Please say "{0}"',
    "Repeat: {0}",
    "Repeat this: {0}",
    'Repeat "{0}"',
    "Please repeat: {0}",
    "Echo: {0}",
    "Copy this: {0}",
    'Copy this text: "{0}"',
    'Write "{0}"',
    "Write this: {0}",
    'Can you say "{0}"?',
    'Can you repeat "{0}"?',
    "Say the words: {0}",
    "Repeat the following: {0}",
    "Repeat these words: {0}",
    'Now say "{0}"',
    "Repeat exactly: {0}",
    'Just say "{0}".',
    "After me: {0}",
    "Please repeat after me: {0}",
    'Repeat the words "{0}".',
    "Say this: {0}",
)
COPY_HELD = ('Could you say "{0}"?', "Repeat this after me: {0}", 'Repeat the text "{0}".')

UNANSWERABLE = (
    "What is the weather today?",
    "Will it rain tomorrow?",
    "What time is it?",
    "What day is it today?",
    "What is the news?",
    "Who won the game yesterday?",
    "What is the population of {country}?",
    "How many people live in {country}?",
    "Who is the president of {country}?",
    "Who is the king of {country}?",
    "What is the price of {thing}?",
    "How much does {thing} cost?",
    "Where can I buy {thing}?",
    "What is {big} plus {big2}?",
    "What is {big} times {big2}?",
    "What is {big} minus {small}?",
    "{big} + {big2}",
    "{big} * {small}",
    "What is {big} divided by {small}?",
    "Write a program that sorts a list.",
    "Write some code in Python.",
    "Write an essay on {thing}.",
    "Who is {name}?",
    "Do you know {name}?",
    "What is a {pseudo}?",
    "What is {pseudo}?",
    "Where is {pseudo}?",
    "What is the capital of {pseudo}?",
    "What does {pseudo} mean?",
    "Who wrote {pseudo}?",
    "How do you say hello in {pseudo}?",
    "Tell me about {name}.",
    "Who won the world cup in {year}?",
    "What happened in {year}?",
    "What happened in {country}?",
    "What is the currency of {pseudo}?",
    "What is the opposite of {pseudo}?",
    "How many legs does a {pseudo} have?",
    "What colour is a {pseudo}?",
    "What is the chemical symbol of {pseudo}?",
    "Explain {pseudo}.",
    "Tell me about {pseudo}.",
    "What is the meaning of life?",
    "What am I thinking of?",
    "Who will win the election?",
    "What is the phone number of {name}?",
    "What is the recipe for {thing}?",
    "How do I cook {thing}?",
    "How do I repair {thing}?",
    "Can you play music?",
    "Which book should I read?",
    "What should I wear today?",
    "How do I get to {country}?",
    "What is the best film of {year}?",
    "Translate this page into Latin.",
    "Who is my mother?",
    "Book a flight to {country}.",
    "How tall is {name}?",
    "When was {name} born?",
    "How far is it to {country}?",
    "What is the history of {country}?",
    "Where do I live?",
    "What is the stock price of {name}?",
    "Tell me about {country}.",
    "How old is {name}?",
)
UNANSWERABLE_HELD = (
    "How many cities are in {country}?",
    "What is the phone number of my bank?",
    "Where was {name} born?",
    "What is the name of the president of {country}?",
    "How do I clean {thing}?",
    "Who wrote the book {pseudo}?",
)

TELL_NAME = (
    "My name is {0}.",
    "I am called {0}.",
    "Hello, my name is {0}.",
    "Hi, I am {0}.",
    "Call me {0}.",
    "You can call me {0}.",
    "Hello! My name is {0}.",
    "Hi! I'm {0}.",
)
ASK_NAME = (
    "What is my name?",
    "Do you know my name?",
    "Who am I?",
    "What am I called?",
    "Tell me my name.",
    "Do you remember my name?",
    "Can you tell me my name?",
)
TELL_LIKE = ("I like {0}.", "I love {0}.", "I really like {0}.", "I like {0} very much.")
ASK_LIKE = (
    "What do I like?",
    "Do you know what I like?",
    "Tell me what I like.",
    "Do you remember what I like?",
    "What is it that I like?",
)
AGAIN = (
    "Say that again.",
    "Repeat that.",
    "Can you repeat that?",
    "What did you say?",
    "Pardon?",
    "Please say that again.",
    "Say it again.",
    "Once more, please.",
)
SAID = (
    "What did I say?",
    "What did I just say?",
    "What did I ask?",
    "Repeat what I said.",
    "What was my last message?",
)

NAMES = words(
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jack Karen Leo Maria Nina Oscar Paul Rosa "
    "Sam Tom Una Victor Wanda Yuki Zoe Alice Bob Carol Peter Sarah Michael Laura Kenji Mei Omar "
    "Fatima Ivan Olga Pedro Lucia Jan Sofia Max Lena Tim Julia"
)
PEOPLE = (
    "John Smith",
    "my teacher",
    "my neighbour",
    "Peter Miller",
    "my boss",
    "Mary Jones",
    "the mayor",
    "my uncle",
    "Anna Schmidt",
    "the author",
    "my doctor",
    "Mister Brown",
)
THINGS = (
    "a house",
    "a bicycle",
    "a car",
    "a piano",
    "a ticket",
    "soup",
    "rice",
    "a shoe",
    "a lamp",
    "a radio",
    "a guitar",
    "bread",
    "a phone",
    "coffee",
    "tea",
    "a table",
    "a clock",
)
LIKES = (
    "music",
    "tea",
    "coffee",
    "cats",
    "dogs",
    "books",
    "football",
    "chess",
    "pizza",
    "apples",
    "green apples",
    "old films",
    "the sea",
    "mountains",
    "snow",
    "summer",
    "long walks",
    "red roses",
    "science",
    "history",
    "chocolate",
    "rain",
    "the colour green",
    "my garden",
    "small birds",
)
PHRASES = rows("""
the | a | my | your | one | this | that
old | little | red | green | happy | big | small | black | white | cold | new | quiet
cat | dog | bird | man | woman | child | fox | horse | king | teacher | mouse | bear | rabbit
sat | jumped | ran | slept | walked | stood | danced | waited | looked | sang | lay
on | under | over | behind | near | by | in | with
mat | tree | house | table | river | hill | chair | bridge | door | garden | road | wall | box
""")
SYLLABLES = [
    c + v
    for c in words("b c d f g h k l m n p r s t v w z br st tr pl gr")
    for v in words("a e i o u ai or an en")
]


def pseudo(rng: random.Random) -> str:
    """A word that means nothing."""
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
    return start(word) if rng.random() < 0.5 else word


def span(rng: random.Random, pool: list[str]) -> str:
    """Words to be copied: random ones, or a plain phrase."""
    if rng.random() < 0.35:
        det, adj, noun, verb, prep, place = (rng.choice(choices) for choices in PHRASES)
        parts = [
            det,
            *([adj] if rng.random() < 0.4 else []),
            noun,
            verb,
            prep,
            rng.choice(PHRASES[0]),
            place,
        ]
    else:
        length = rng.choice((1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 12))
        parts = [pseudo(rng) if rng.random() < 0.12 else rng.choice(pool) for _ in range(length)]
    text = " ".join(parts)
    return start(text) + "." if rng.random() < 0.15 else text


def copy_turn(rng: random.Random, pool: list[str], forms: tuple[str, ...]) -> tuple[str, str]:
    """A request to repeat words, and the words."""
    text = span(rng, pool)
    if '"' not in text and rng.random() < 0.06:
        text = " ".join(text.split()[:3]).rstrip(".")
        return f"Say {text}", text
    lead, tail = rng.choice(forms).split("{0}")
    lead = lead.lower() if rng.random() < 0.3 else lead
    return lead + text + tail, text


def unknown_turn(
    rng: random.Random, countries: list[str], forms: tuple[str, ...]
) -> tuple[str, str]:
    """A question that the model cannot answer, and its saying so."""
    wording = rng.choice(forms).format(
        country=rng.choice(countries),
        thing=rng.choice(THINGS),
        name=rng.choice(PEOPLE),
        big=rng.randint(21, 999),
        big2=rng.randint(21, 999),
        small=rng.randint(2, 30),
        year=rng.randint(1900, 2030),
        pseudo=pseudo(rng),
    )
    return write(rng, wording), UNKNOWN


class Memory:
    """What the user has said in one conversation, and the turns that ask for it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.name = ""
        self.like = ""
        self.last: tuple[str, str] | None = None

    def turn(self) -> tuple[str, str]:
        """A turn that tells or asks something about this conversation."""
        rng = self.rng
        kind = rng.choice(("name", "name", "like", "again", "said"))
        if kind == "name":
            return self._name()
        if kind == "like":
            return self._like()
        if kind == "again":
            before = self.last[1] if self.last else "I have not said anything yet."
            return write(rng, rng.choice(AGAIN)), before
        before = f"You said: {self.last[0]}" if self.last else "You have not said anything yet."
        return write(rng, rng.choice(SAID)), before

    def _name(self) -> tuple[str, str]:
        rng = self.rng
        if rng.random() < (0.3 if self.name else 0.6):
            self.name = start(pseudo(rng)) if rng.random() < 0.3 else rng.choice(NAMES)
            return rng.choice(TELL_NAME).format(self.name), f"Nice to meet you, {self.name}!"
        known = f"Your name is {self.name}." if self.name else "You have not told me your name yet."
        return write(rng, rng.choice(ASK_NAME)), known

    def _like(self) -> tuple[str, str]:
        rng = self.rng
        if rng.random() < (0.3 if self.like else 0.6):
            self.like = pseudo(rng).lower() if rng.random() < 0.2 else rng.choice(LIKES)
            return rng.choice(TELL_LIKE).format(self.like), f"It is nice that you like {self.like}."
        known = f"You like {self.like}." if self.like else "You have not told me what you like yet."
        return write(rng, rng.choice(ASK_LIKE)), known

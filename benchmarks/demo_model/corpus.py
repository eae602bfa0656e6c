"""The training text of the demo model: conversations made from items and tasks.

Everything is made here from tables written for this project; no outside text is used. The same
seed always gives the same conversations.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from itertools import accumulate

from facts_nature import nature_items
from facts_project import project_items
from facts_words import word_items
from facts_world import COUNTRIES, world_items
from items import Item, words
from small_talk import small_talk_items
from tasks import (
    COPY,
    COPY_HELD,
    UNANSWERABLE,
    UNANSWERABLE_HELD,
    Memory,
    copy_turn,
    unknown_turn,
)
from wording import write

Message = dict[str, str]
Conversation = list[Message]

BOOST = {"talk": 3.0, "project": 3.0, "model": 3.0, "plus": 1.5, "minus": 1.5, "times": 1.5}
FOLLOWED = words(
    "capital continent language currency hello thanks-in goodbye-in legs animal-class sound young "
    "colour opposite plural past symbol month-days"
)
FOLLOW_UPS = (
    "And {0}?",
    "What about {0}?",
    "And what about {0}?",
    "How about {0}?",
    "{0}?",
    "And for {0}?",
    "Now {0}.",
    "And of {0}?",
    "And in {0}?",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Be brief.",
    "You are a small model. Answer in one sentence.",
    "Answer the questions of the user.",
    "You are a helpful, honest and harmless assistant.",
    "Please answer in English.",
    "You are the STIP demo model.",
    "Answer politely.",
    "You are an assistant.",
    "Be kind.",
    "You are a chatbot that answers simple questions. Answer in full sentences.",
)
TURNS = (1, 2, 3, 4, 8)
TURN_WEIGHTS = (50, 24, 13, 9, 4)


class Corpus:
    """All items, and the conversations drawn from them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.items: list[Item] = [
            *world_items(),
            *nature_items(),
            *word_items(),
            *project_items(),
            *small_talk_items(),
        ]
        self.kinds: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            self.kinds[item.kind].append(item)
        self.names = list(self.kinds)
        self.weights = list(
            accumulate(len(self.kinds[name]) ** 0.7 * BOOST.get(name, 1.0) for name in self.names)
        )
        self.countries = [row[0] for row in COUNTRIES]
        text = " ".join(text for item in self.items for text in (*item.wordings, item.answer))
        self.words = sorted(set(re.findall(r"[^\W\d_]+|[^\w\s\"'.,:;?!()+*=/-]+", text)))

    def _item(self) -> Item:
        return self.rng.choice(
            self.kinds[self.rng.choices(self.names, cum_weights=self.weights)[0]]
        )

    def ask(self, item: Item, wordings: tuple[str, ...]) -> tuple[str, str]:
        """One of the wordings as a user may type it, and the item's answer."""
        return write(self.rng, self.rng.choice(wordings), dressed=item.dressed), item.answer

    def _turn(self, memory: Memory, before: Item | None) -> tuple[tuple[str, str], Item | None]:
        if before and before.kind in FOLLOWED and self.rng.random() < 0.3:
            item = self.rng.choice(self.kinds[before.kind])
            wording = self.rng.choice(FOLLOW_UPS).format(item.subject)
            return (write(self.rng, wording, dressed=False), item.answer), item
        chance = self.rng.random()
        if chance < 0.15:
            return copy_turn(self.rng, self.words, COPY), None
        if chance < 0.24:
            return unknown_turn(self.rng, self.countries, UNANSWERABLE), None
        if chance < (0.36 if memory.last else 0.28):
            return memory.turn(), None
        item = self._item()
        return self.ask(item, item.wordings), item

    def conversation(self, turns: int | None = None) -> Conversation:
        """A training conversation of one to eight turns, with or without a system message."""
        turns = turns or self.rng.choices(TURNS, TURN_WEIGHTS)[0]
        messages: Conversation = []
        if self.rng.random() < 0.35:
            messages.append({"role": "system", "content": self.rng.choice(SYSTEMS)})
        memory = Memory(self.rng)
        before: Item | None = None
        for _ in range(turns):
            pair, before = self._turn(memory, before)
            memory.last = pair
            messages += as_messages(pair)
        return messages

    def plain(self, *, held: bool) -> list[Conversation]:
        """Every training or held-out wording of every item, written as it is in the tables."""
        return [
            as_messages((wording, item.answer))
            for item in self.items
            for wording in (item.held if held else item.wordings)
        ]

    def test_sets(self, size: int) -> dict[str, list[Conversation]]:
        """Named sets of conversations whose last answer is to be checked."""

        def draw(held: bool) -> Conversation:
            item = self._item()
            return as_messages(self.ask(item, item.held if held else item.wordings))

        rng = self.rng
        return {
            "training wordings, plain": rng.sample(self.plain(held=False), size),
            "training wordings, varied": [draw(held=False) for _ in range(size)],
            "held-out wordings, plain": rng.sample(self.plain(held=True), size),
            "held-out wordings, varied": [draw(held=True) for _ in range(size)],
            "four-turn conversations": [self.conversation(4) for _ in range(size // 2)],
            "copying, held-out wordings": [
                as_messages(copy_turn(rng, self.words, COPY_HELD)) for _ in range(size // 2)
            ],
            "unanswerable, held-out wordings": [
                as_messages(unknown_turn(rng, self.countries, UNANSWERABLE_HELD))
                for _ in range(size // 4)
            ],
        }


def as_messages(pair: tuple[str, str]) -> Conversation:
    """A turn as a user's and an assistant's message."""
    return [
        {"role": "user", "content": pair[0]},
        {"role": "assistant", "content": pair[1]},
    ]

"""How a wording is written down: greetings before it, "please", contractions, casing, marks."""

from __future__ import annotations

import random

from items import start, words

LEADS = (
    "Hi! ",
    "Hello! ",
    "Hey! ",
    "Hi, ",
    "Hello, ",
    "Hey, ",
    "Good morning! ",
    "Quick question: ",
    "I have a question: ",
    "Question: ",
    "Excuse me, ",
    "So, ",
    "Okay, ",
    "And ",
    "Tell me: ",
    "Please tell me: ",
    "Now ",
    "Please, ",
    "Hi there! ",
    "One more question: ",
    "Next: ",
    "Well, ",
)
TAILS = (", please", " please", ", thanks", " now", ", my friend")
CONTRACTIONS = (
    ("What is", "What's"),
    ("Who is", "Who's"),
    ("Where is", "Where's"),
    ("How is", "How's"),
    ("I am", "I'm"),
    ("You are", "You're"),
    ("That is", "That's"),
    ("what is", "what's"),
    ("What is", "Whats"),
    ("do not", "don't"),
)
OPENERS = words(
    "What Which Who Whose Where When Why How Do Does Did Can Could Is Are Tell Name Give Say "
    "Explain Define Describe Translate Show Send Write Calculate Compute Repeat Please In On Of To"
)


def _contract(rng: random.Random, text: str) -> str:
    fitting = [pair for pair in CONTRACTIONS if pair[0] + " " in text]
    if fitting and rng.random() < 0.2:
        long, short = rng.choice(fitting)
        return text.replace(long, short, 1)
    return text


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:] if text.split()[0] in OPENERS else text


def _mark(rng: random.Random, text: str) -> str:
    """Vary the mark at the end."""
    chance = rng.random()
    if text[-1] in "?.":
        if chance < 0.25:
            return text[:-1]
        if chance < 0.28:
            return text[:-1] + rng.choice(("??", " ?", "!", "?!"))
        return text
    if text[-1].isalpha() and chance < 0.45:
        return text + rng.choice("!.")
    return text


def write(rng: random.Random, wording: str, *, dressed: bool = True, mark: bool = True) -> str:
    """One way in which a user may type the wording."""
    text = _contract(rng, wording)
    if dressed and rng.random() < 0.25:
        lead = rng.choice(LEADS)
        text = lead + (text if lead.endswith("! ") else _lower_first(text))
    if dressed and rng.random() < 0.12:
        end = text[-1] if text[-1] in "?.=" else ""
        text = text[: len(text) - len(end)] + rng.choice(TAILS) + end
    if mark:
        text = _mark(rng, text)
    chance = rng.random()
    if chance < 0.22:
        return text.lower()
    if chance < 0.24:
        return text.upper()
    return start(text)

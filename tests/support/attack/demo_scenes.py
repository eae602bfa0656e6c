"""The demo model as attackers see it, made once for all tests of a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import Attack, Language, PublicModel, View
from tests.support.attack.scenes import (
    Masked,
    Said,
    chats,
    demo_model,
    known_to,
    language,
    mask_model,
    say,
    view,
    wrong_model,
)

# A token in a thousand would be right by chance; a few are by luck.
CHANCE = 0.05


@cache
def said_to_the_demo(seed: int) -> list[Said]:
    return say(demo_model(), chats(seed)[0])


@cache
def masked_demo(folder: Path, scheme: Scheme, head: Head, seed: int) -> Masked:
    return mask_model(demo_model(), folder, scheme, head, seed)


def seen_of_the_demo(
    attack: Attack, folder: Path, scheme: Scheme, head: Head, seed: int, **more: Any
) -> tuple[View, Sequence[Said]]:
    seen = everything_seen(folder, scheme, head, seed)
    return known_to(attack.attacker, seen, language=demo_language(seed), **more), said_to_the_demo(
        seed
    )


@cache
def everything_seen(folder: Path, scheme: Scheme, head: Head, seed: int) -> View:
    masked = masked_demo(folder, scheme, head, seed)
    return view(masked, demo_model(), said_to_the_demo(seed))


@cache
def demo_language(seed: int) -> Language:
    """What is known of such conversations: others."""
    said = say(demo_model(), chats(seed)[1])
    return language([each.prompt + each.reply for each in said], demo_model().config.vocab_size)


@cache
def another_model() -> PublicModel:
    return wrong_model(demo_model())


def mistaken(seen: View) -> View:
    """The same, by an attacker who has the wrong model."""
    return replace(seen, public=another_model())

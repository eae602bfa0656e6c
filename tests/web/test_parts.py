"""The parts of the page that need no browser."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import ClientError, RequestError, WrongKeyError
from stip_client.session.client_core import ClientSettings
from stip_client.transport.step_profile import StepProfile
from stip_client.web.error_text import error_text
from stip_client.web.page_model import ModelLoader, PageModel
from stip_client.web.panes import key_pane, server_pane, user_pane
from stip_client.web.panes.chart import CUT, MOST, PARTS, chart
from stip_client.web.panes.markup import escape
from stip_client.web.running_reply import ReplyProgress, RunningReply
from stip_client.web.shown_masks import (
    WrongMasterKeyError,
    layer_permutations,
    residual_permutations,
)
from stip_keys.masks.key_file import read_client_key, read_master_key
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.permutation import inverse
from tests.support.parties import Server, convert
from tests.web.conftest import DEMO_MODEL

ACCESS: ClientSettings = {
    "tls": None,
    "token": None,
    "insecure": False,
    "patience": 0.0,
    "verify_key": None,
}


def step(milliseconds: float) -> StepProfile:
    part = milliseconds / 4e3
    return StepProfile(1, part, part, part, part)


def drawing(steps: list[StepProfile]) -> ElementTree.Element:
    html = chart(steps)
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def bars(svg: ElementTree.Element) -> list[list[ElementTree.Element]]:
    """The visible rectangles of every bar."""
    groups = [each for each in svg.findall("g") if each.find("title") is not None]
    return [[r for r in each.findall("rect") if r.get("class") != "stip-hover"] for each in groups]


def test_a_bar_stacks_its_parts_in_proportion() -> None:
    ((*parts,),) = bars(drawing([StepProfile(1, 0.001, 0.002, 0.003, 0.004)]))
    assert [each.get("class") for each in parts] == [f"stip-{name}" for name, _, _ in PARTS]
    heights = [float(each.get("height", 0)) for each in parts]
    assert [round(each / heights[0], 2) for each in heights] == [1, 2, 3, 4]
    ends = [float(each.get("y", 0)) for each in parts]
    for below, above, height in zip(ends, ends[1:], heights[1:], strict=False):
        assert above == pytest.approx(below - height, abs=0.02)


def test_an_outlier_is_cut_off_and_marked() -> None:
    *usual, outlier = bars(drawing([*[step(10)] * 9, step(10 * CUT * 20)]))
    assert "stip-cut" in [each.get("class") for each in outlier]
    assert all("stip-cut" not in [each.get("class") for each in bar] for bar in usual)
    assert sum(float(each.get("height", 0)) for each in usual[0]) > 100 / (2 * CUT)


def test_a_long_reply_shows_its_last_steps() -> None:
    svg = drawing([step(5)] * (MOST + 7))
    titles = [title.text or "" for title in svg.iter("title")]
    assert len(titles) == MOST
    assert titles[0].startswith("step 8 (token") and titles[-1].startswith(f"step {MOST + 7} ")


@pytest.mark.parametrize("milliseconds", [[], [0], [1e-3], [4e5]])
def test_a_chart_of_anything_can_be_drawn(milliseconds: list[float]) -> None:
    assert len(bars(drawing([step(each) for each in milliseconds]))) == len(milliseconds)


def test_escaping_leaves_nothing_that_html_or_a_template_acts_upon() -> None:
    assert not set(escape("<a b='c' d=\"e\">`${f}` {{g}}\\</a>")) & set("<>'\"`${}\\")
    assert escape("50 % & more") == "50 % &amp; more"


def test_errors_become_sentences() -> None:
    assert error_text(RequestError("the prompt is empty")) == "The prompt is empty."
    hinted = ClientError("/tmp/x is no model", hint="load another one")
    assert error_text(hinted) == "/tmp/x is no model. Load another one."
    connecting = ClientError("no connection to a:1: failed; last error: UNKNOWN: ipv6:%5B::1")
    assert error_text(connecting) == "No connection to a:1: failed."
    asked = ClientError("gone.", hint="is it running?")
    assert error_text(asked) == "Gone. Is it running?"


@pytest.fixture
def loaded(bundles: Path, master_key: Path) -> PageModel:
    return ModelLoader("localhost:1", ACCESS, read_master_key(master_key)).load(str(bundles))


def test_the_shown_permutations_are_those_of_the_labels(
    loaded: PageModel, master_key: Path
) -> None:
    master, manifest = read_master_key(master_key), loaded.client.bundle.manifest
    shown = {each.name: each for each in loaded.layer}
    value = master.permutation("layer/0/value/1", manifest.model.head_dim)
    assert shown["L0 kv, head 1"].first == tuple(value[:8])
    assert shown["L0 out, head 1"].first == tuple(inverse(value)[:8])
    assert shown["L0 mlp"].first == tuple(master.permutation("layer/0/mlp", 512)[:8])
    turns = master.quarter_turns("layer/0/turns/0", manifest.model.head_dim // 2)
    assert shown["L0 qk, head 0"].first == tuple(turns[:8])
    assert sorted(shown["L0 heads q"].first) == list(range(6))
    assert len(loaded.residuals) == manifest.model.num_hidden_layers
    p = master.residual_permutation(1, manifest.model.hidden_size, manifest.residual_blocks)
    assert loaded.residuals[0].first == tuple(p[:8])


def test_what_the_page_always_says_is_true_of_rotations_too() -> None:
    panes = (server_pane.head(), user_pane.head(), user_pane.reply_head(None), key_pane.head())
    for text in (chart([]), *panes):
        assert "permut" not in text.lower()
    assert "masked" in server_pane.head()


@pytest.mark.parametrize("head", ["server", "client", "sealed"])
@pytest.mark.parametrize("scheme", ["permutation", "rotation"])
def test_the_key_center_tells_what_is_used_instead(
    scheme: str, head: str, master_key: Path, tmp_path: Path
) -> None:
    options = ("--scheme", scheme, "--head", head, "--key", master_key)
    bundles, master = convert(DEMO_MODEL, tmp_path / "out", *options), read_master_key(master_key)
    alone = ModelLoader("localhost:1", ACCESS, None).load(str(bundles))
    loaded = ModelLoader("localhost:1", ACCESS, master).load(str(bundles))
    pane = key_pane.permutations(loaded)
    answers = {each.name: each.first for each in loaded.outputs}
    if scheme == "rotation":
        assert (loaded.input.name, loaded.input.first, alone.blocks) == ("rotation", (), [])
        assert "3 rounds of permutation, signs and Hadamard matrices" in pane
        assert '</h3><ul class="stip-permutations"></ul>' not in pane
        assert "perm_in" not in pane + key_pane.counters(loaded, None)
        shown = {each.name: each for each in loaded.layer}
        assert "angles" in shown["L0 qk, head 0"].of and set(shown["L0 mlp signs"].first) == {-1, 1}
        assert loaded.residuals == []
    else:
        assert "perm_in(0)" in pane and "rotation" not in pane
    if head == "sealed":
        assert answers == {"vocabulary": tuple(master.permutation("vocabulary", 1536)[:8])}
    elif head == "client" and scheme == "permutation":
        config = loaded.client.bundle.manifest.model
        p = master.residual_permutation(config.num_hidden_layers, config.hidden_size, 6)
        assert answers == {"perm_out": tuple(p[:8])}
    else:
        assert answers == {}
    with pytest.raises(WrongMasterKeyError):
        ModelLoader("localhost:1", ACCESS, MasterKey.from_base_seed(1)).load(str(bundles))


def test_what_is_shown_holds_no_subkey(loaded: PageModel, bundles: Path, master_key: Path) -> None:
    master, manifest = read_master_key(master_key), loaded.client.bundle.manifest
    shown = [loaded.input, *loaded.blocks, *layer_permutations(master, manifest)]
    text = repr([*shown, *residual_permutations(master, manifest)])
    labels = [each.label for each in loaded.layer if "…" not in each.label]
    subkeys = [master.subkey(label).hex() for label in labels]
    subkeys += [each.hex() for each in read_client_key(bundles / "client" / "client.key").subkeys]
    assert len(set(subkeys)) > 10
    for subkey in [master.secret.hex(), *subkeys]:
        assert subkey[:16] not in text


def test_a_folder_is_opened_once_and_again_when_it_has_changed(bundles: Path) -> None:
    loader = ModelLoader("localhost:1", ACCESS, None)
    first = loader.load(str(bundles))
    assert loader.load(f" {bundles / 'client'} ") is first
    manifest = bundles / "client" / "manifest.json"
    manifest.touch()
    assert loader.load(str(bundles)) is not first


def test_a_page_that_others_reach_loads_one_folder(bundles: Path, tiny_bundles: Path) -> None:
    loader = ModelLoader("localhost:1", ACCESS, None, only=bundles)
    loader.load(str(bundles / "client"))
    for other in (tiny_bundles, Path("/etc")):
        with pytest.raises(RequestError, match="no folder but the one"):
            loader.load(str(other))


def run_to_its_end(
    loader: ModelLoader, folder: Path, **options: int | float
) -> tuple[ReplyProgress, int]:
    """A reply and how many pictures it made."""

    async def collect() -> tuple[ReplyProgress, int]:
        run = RunningReply(loader.load(str(folder)), "What is STIP?", **options)  # type: ignore[arg-type]
        pictures = [None async for _ in run.frames()]
        await loader.close()
        return run.reply, len(pictures)

    return asyncio.run(collect())


def test_every_token_has_its_step_and_its_floats(server: Server, bundles: Path) -> None:
    loader = ModelLoader(server.address, ACCESS, None)
    reply, pictures = run_to_its_end(loader, bundles, max_new_tokens=12, temperature=0.0)
    assert (reply.stage, reply.finish_reason, reply.tokens) == ("finished", "length", 12)
    assert len(reply.steps) == len(reply.floats) == 12 and pictures >= 1
    assert reply.prompt_tokens == reply.steps[0].rows
    p = loader.load(str(bundles)).client.bundle.input_permutation
    assert max(p[:10]) > 9  # so they are not only the same ten in another order
    for each in reply.floats:
        inside = [np.float16(each.unmasked[index]) for index in p[:10] if index < 10]
        assert [np.float16(each.received[k]) for k in range(10) if p[k] < 10] == inside


def test_a_reply_that_is_stopped_twice_leaves_no_session(
    server: Server, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Stop button and a closed tab both stop it: the second must not end the closing."""

    async def stop_twice() -> tuple[ReplyProgress, int]:
        loader = ModelLoader(server.address, ACCESS, None)
        loaded = loader.load(str(bundles))
        monkeypatch.setattr(ClientBundle, "eos_token_ids", frozenset())
        run = RunningReply(loaded, "What is STIP?", max_new_tokens=900, temperature=4.0)

        async def follow() -> None:
            async with aclosing(run.frames()) as frames:
                async for _ in frames:
                    pass

        following = asyncio.create_task(follow())
        while not run.reply.tokens:  # the first token has come, and the next one is on its way
            await asyncio.sleep(0)
        run.stop()
        await asyncio.sleep(0)
        run.stop()
        await following
        sessions = (await loaded.client.model_info()).load.sessions
        await loader.close()
        return run.reply, sessions

    reply, sessions = asyncio.run(stop_twice())
    assert (reply.stage, sessions) == ("stopped", 0) and reply.tokens


def test_a_server_of_another_key_is_told_as_such(server: Server, tmp_path: Path) -> None:
    other = convert(DEMO_MODEL, tmp_path / "other")
    loader = ModelLoader(server.address, ACCESS, None)
    reply, _ = run_to_its_end(loader, other, max_new_tokens=1, temperature=0.0)
    assert reply.stage == "failed" and isinstance(reply.error, WrongKeyError)

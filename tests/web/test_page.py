"""The page in a browser, in front of a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from stip_client import Client
from stip_client.bundle.client_bundle import ClientBundle
from tests.support.pages import (
    FINISHED,
    KEEP_FETCHED,
    PHONE,
    PROMPT,
    RECORDER,
    WIDE,
    Line,
    load,
    opened,
    reply,
    send,
    send_for_long,
    send_greedily,
)
from tests.support.parties import Server, run_tool, server_process
from tests.support.waiting import eventually


@dataclass
class Answered:
    """A page on which a prompt has been answered, and all that happened until then."""

    page: Page
    requests: list[str]
    fetched: str
    console: list[str]
    recorded: list[dict[str, Any]]


@pytest.fixture(scope="module")
def answered(browser: Browser, address: str) -> Iterator[Answered]:
    """Shared: look at it, and leave it as it is."""
    with browser.new_context(viewport=WIDE) as context:
        page = context.new_page()
        requests: list[str] = []
        console: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.add_init_script(KEEP_FETCHED)
        page.on("console", lambda message: console.append(message.text))
        opened(page, address)
        page.evaluate(RECORDER)
        send(page, PROMPT)
        page.wait_for_function(FINISHED)
        fetched = page.evaluate("window.kept.join('')")
        yield Answered(page, requests, fetched, console, page.evaluate("window.recorded"))


@pytest.fixture(scope="module")
def expected(server: Server, bundles: Path) -> str:
    """The greedy reply as the command line prints it."""
    done = run_tool(
        "stip_client",
        "generate",
        *("--server", server.address, "--bundle", bundles / "client"),
        *("--prompt", PROMPT, "--max-new-tokens", 128, "--json"),
    )
    return str(json.loads(done.stdout)["text"])


@pytest.fixture(scope="module")
def bundle(bundles: Path) -> ClientBundle:
    return ClientBundle(bundles / "client")


@pytest.fixture
def status(page: Page) -> Any:
    return expect(page.locator("#stip-status"))


@pytest.fixture
def box(page: Page) -> Any:
    return expect(page.locator("#stip-reply"))


def test_a_prompt_is_answered_as_on_the_command_line(answered: Answered, expected: str) -> None:
    assert reply(answered.page) == expected
    for said in ("computes on masked hidden states", "computed on masked states", "A mask is no"):
        assert answered.page.get_by_text(said).is_visible()


def test_panes_and_chart_change_while_it_streams(answered: Answered) -> None:
    under_way = [each for each in answered.recorded if each["under_way"]]
    for name in ("reply", "rows", "received", "chart"):
        assert len({each[name] for each in under_way}) >= 3, name
    # nothing jumps
    assert len({each["height"] for each in answered.recorded}) == 1


def test_the_server_receives_the_permuted_floats(answered: Answered, bundle: ClientBundle) -> None:
    """They are of the row that the user's pane shows unmasked, in another order."""
    unmasked = floats(answered.page, ".stip-user .stip-floats b")
    received = floats(answered.page, "#stip-received .stip-floats b")
    rows = bundle.embeddings.rows(range(bundle.embeddings.vocab_size)).astype(float)
    (row,) = [each for each in rows if shown(each[:10]) == unmasked]
    assert received == shown(row[bundle.input_permutation[:10]])
    assert received != unmasked


def test_the_chart_has_units_a_legend_and_tooltips(answered: Answered) -> None:
    chart = answered.page.locator("#stip-chart")
    text = chart.inner_text()
    for part in ("Client", "Wire", "Queue", "Compute", "milliseconds", "step"):
        assert part in text
    titles = chart.locator("g > title").all_text_contents()
    assert re.fullmatch(
        r"step 1 \(prompt, 14 rows\): [\d.]+ ms\n"
        r"client [\d.]+ ms, wire [\d.]+ ms, queue [\d.]+ ms, compute [\d.]+ ms",
        titles[0],
    )
    assert answered.page.locator("#stip-step").inner_text() == f"step {len(titles)}"


def test_the_key_center_shows_the_permutations_in_use(
    answered: Answered, bundle: ClientBundle
) -> None:
    pane = answered.page.locator("#stip-keys").inner_text()
    assert bundle.manifest.key_id in pane
    first = answered.page.locator(".stip-indices").first.inner_text().split()[:8]
    assert list(map(int, first)) == bundle.input_permutation[:8].tolist()
    for name in ("perm_in(0)", "L0 heads kv", "L0 qk, head 0", "L0 kv, head 1", "L0 out, head 1"):
        assert name in pane
    assert "L0 mlp" in pane and "residual(4)" in pane and "residual(5)" not in pane


def test_no_key_is_in_what_the_browser_gets(
    answered: Answered, bundles: Path, master_key: Path
) -> None:
    """Neither the master key nor a subkey: in the page, its configuration and its events."""
    secrets = [json.loads(master_key.read_bytes())["key"]]
    secrets += json.loads((bundles / "client" / "client.key").read_bytes())["subkeys"].values()
    assert len(secrets) == 7
    page = answered.page
    asked = [page.request.get(page.url + path).text() for path in ("", "config")]
    everything = "".join([answered.fetched, *asked, page.content()])
    assert "process_completed" in everything and "perm_in(0)" in everything
    for secret in secrets:
        assert secret not in everything


def test_no_file_of_this_machine_is_served(
    answered: Answered, bundles: Path, master_key: Path
) -> None:
    page = answered.page
    for path in (master_key, bundles / "client" / "client.key", bundles / "client/manifest.json"):
        answer = page.request.get(f"{page.url}gradio_api/file={path}")
        assert answer.status in (403, 404), path


def test_nothing_is_asked_of_another_host(answered: Answered, address: str) -> None:
    assert len(answered.requests) > 10
    here = (address, "data:", "blob:")
    assert [each for each in answered.requests if not each.startswith(here)] == []
    # the policy that refuses it is in force, and has had nothing to do
    policy = answered.page.request.get(address).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert [each for each in answered.console if "Content Security Policy" in each] == []


def test_a_page_by_another_name_is_refused(answered: Answered, address: str) -> None:
    """A name that its owner made to point to this machine does not get the page."""
    port = address.rstrip("/").rpartition(":")[2]
    headers = {"host": f"attacker.example:{port}"}
    assert answered.page.request.get(address, headers=headers).status == 403


def test_stop_ends_it_in_mid_answer_and_leaves_it_usable(
    page: Page, expected: str, line: Line, server: Server, bundles: Path
) -> None:
    with line.slow():
        send_for_long(page)
        page.locator("#stip-stop").click()
        expect(page.locator("#stip-stats")).to_contain_text("Stopped")
    assert reply(page)
    with Client(server.address, bundles / "client") as client:
        assert client.model_info().load.sessions == 0
    assert send_greedily(page) == expected


def test_a_closed_tab_ends_its_reply(
    context: BrowserContext, page: Page, address: str, line: Line, server: Server, bundles: Path
) -> None:
    tab = opened(context.new_page(), address)
    with line.slow(), Client(server.address, bundles / "client") as client:
        send_for_long(tab)
        assert client.model_info().load.sessions == 1
        tab.close()

        def ended() -> bool:
            page.wait_for_timeout(50)
            return client.model_info().load.sessions == 0

        eventually(ended)


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    panes = page.locator(".stip-pane").evaluate_all("all => all.map(each => each.offsetLeft)")
    assert len(panes) == 3 and len(set(panes)) == 1  # one below the other
    page.set_viewport_size(WIDE)
    panes = page.locator(".stip-pane").evaluate_all("all => all.map(each => each.offsetTop)")
    assert len(panes) == 3 and len(set(panes)) == 1  # side by side


def test_tabs_do_not_mix_and_one_is_dark(
    page: Page, context: BrowserContext, address: str, expected: str
) -> None:
    other = context.new_page()
    other.emulate_media(color_scheme="dark")
    other.set_viewport_size(PHONE)
    opened(other, address)
    send(page, PROMPT)
    send(other, "Hello, how are you?")
    page.wait_for_function(FINISHED)
    other.wait_for_function(FINISHED)
    assert reply(page) == expected
    assert reply(other) == "I am fine, thank you. How can I help you?"
    background = "getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(background), other.evaluate(background)) == (
        "rgb(243, 244, 246)",
        "rgb(14, 18, 24)",
    )
    assert other.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_a_folder_without_a_model(page: Page, status: Any, tmp_path: Path) -> None:
    load(page, tmp_path)
    status.to_contain_text(f"There is no model in {tmp_path}")


def test_what_was_typed_is_shown_as_text(page: Page, status: Any) -> None:
    """Neither HTML nor what Gradio's templates would take for an expression is acted upon."""
    typed = "/no/${window.acted = 1}/{{value}}/<img src=x onerror='window.acted = 2'>"
    load(page, typed)
    status.to_contain_text(typed)
    assert page.evaluate("window.acted") is None


def test_a_server_bundle(page: Page, status: Any, bundles: Path) -> None:
    load(page, bundles / "server")
    status.to_contain_text("is not a client bundle")


def test_a_bundle_of_another_key(page: Page, status: Any, tiny_bundles: Path) -> None:
    load(page, tiny_bundles)
    status.to_contain_text("was not made with the master key")


def test_an_empty_prompt(page: Page, box: Any) -> None:
    send(page, "")
    box.to_contain_text("The prompt is empty.")


def test_impossible_numbers(page: Page, box: Any) -> None:
    for name, value, says in (
        ("max", "0", "it must be 1 or more"),
        ("max", "", "No maximum"),
        ("temperature", "-1", "Temperature is -1"),
    ):
        page.locator("#stip-max input").fill("8")
        page.locator(f"#stip-{name} input").fill(value)
        send(page, PROMPT)
        box.to_contain_text(says)


def test_a_server_that_is_down(
    page: Page, box: Any, status: Any, line: Line, bundles: Path, expected: str
) -> None:
    with line.down():
        send(page, PROMPT)
        box.to_contain_text("Is the server running, and is the address right?")
        load(page, bundles)
        status.to_contain_text("but the server does not answer")

    def serves() -> bool:
        load(page, bundles)
        page.wait_for_timeout(200)
        return "serves it" in page.locator("#stip-status").inner_text()

    eventually(serves)  # gRPC waits before it connects again
    assert send_greedily(page) == expected


def test_a_server_that_does_not_echo(
    page: Page, line: Line, server: Server, bundles: Path, expected: str
) -> None:
    with server_process(bundles / "server") as silent:
        line.lead_to(silent.address)
        try:
            assert send_greedily(page) == expected
        finally:
            line.lead_to(server.address)
    pane = page.locator("#stip-server").inner_text()
    assert "stip-server --allow-echo" in pane and "no step yet" in pane


def floats(page: Page, selector: str) -> list[float]:
    texts = page.locator(selector).all_text_contents()
    return [float(text.replace("−", "-")) for text in texts]


def shown(values: Any) -> list[float]:
    return [float(f"{value:+.3f}") for value in values]

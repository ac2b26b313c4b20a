"""The page, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import EXAMPLES, ROOT
from tests.edge_vqa.serve.conftest import Server, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
PAGE = ROOT / "edge_vqa" / "serve" / "page"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # --no-sandbox: as root, as in a container, Chromium does not start with it
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, with the model met; anything that the browser complains of fails the test."""
    context = browser.new_context()
    opened = context.new_page()
    complaints: list[str] = []
    hosts: set[str] = set()
    opened.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: hosts.add(request.url.split("/")[2]) if request.url.startswith("http") else None)
    opened.goto(server.address)
    opened.wait_for_selector("#risk:not([hidden])")
    yield opened
    expected = opened.evaluate("window.expectedComplaints ?? 0")
    assert len(complaints) == expected, complaints
    assert hosts == {server.address.split("/")[2]}
    context.close()


def ask(page: Page, question: str) -> None:
    before = page.locator("#answers li").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    expect(page.locator("#answers li .scale:visible")).to_have_count(before + 1)


def test_a_picture_is_chosen_and_asked_about(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES / "price.png")
    ask(page, "how much is it?")
    entry = page.locator("#answers li").first
    assert entry.locator(".said").inner_text() == "$4.50"
    assert entry.locator(".verdict").inner_text() == "confidence over 0.99, at least 0.75, the threshold for 5% risk"
    meter = entry.get_by_role("meter")
    assert float(meter.get_attribute("aria-valuenow") or 0) > 0.99
    sure, limit = entry.locator(".sure").bounding_box(), entry.locator(".limit").bounding_box()
    whole = entry.locator(".scale").bounding_box()
    assert sure and limit and whole
    assert sure["width"] / whole["width"] > 0.9 and (limit["x"] - whole["x"]) / whole["width"] == pytest.approx(0.745, abs=0.02)


def test_an_abstention_says_why_and_shows_the_guess_on_request(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES / "dark.png")
    page.fill("#slider", "0")
    assert page.locator("#cost").inner_text() == "1 in 100 at most. About 8 in 100 questions get an answer."
    ask(page, "what is this?")
    entry = page.locator("#answers li").first
    assert entry.locator(".said").inner_text() == "Not answered" and "below 0.99" in entry.locator(".verdict").inner_text()
    guess = entry.locator(".guess p")
    assert not guess.is_visible()
    entry.locator("summary").click()
    assert guess.is_visible() and guess.inner_text()


def test_tokens_stream_in_as_provisional(page: Page) -> None:
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const entry = document.querySelector("#answers li");
                const said = entry?.querySelector(".said").textContent;
                if (entry) window.seen.push([entry.classList.contains("provisional"), said]);
            }).observe(document.getElementById("answers"), { subtree: true, childList: true, attributes: true });
        }"""
    )
    page.set_input_files("#file", EXAMPLES / "price.png")
    ask(page, "how much is it?")
    seen = page.evaluate("window.seen")
    assert [True, "$4"] in seen or [True, "$"] in seen, seen
    assert seen[-1] == [False, "$4.50"]


def test_what_goes_wrong_is_said(page: Page, tmp_path: Path) -> None:
    page.fill("#question", "what is this?")
    page.click("#ask")
    assert page.get_by_role("alert").inner_text() == "choose a picture first"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.set_input_files("#file", broken)
    page.click("#ask")
    expect(page.get_by_role("alert")).to_contain_text("not a picture")
    page.evaluate("window.expectedComplaints = 1")  # that the server answered with status 400
    assert page.locator("#answers li").count() == 0


def test_what_a_question_says_is_text(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES / "price.png")
    ask(page, "<img src=x onerror=alert(1)><b>bold</b>?")
    assert page.locator("#answers li .asked").inner_text() == "<img src=x onerror=alert(1)><b>bold</b>?"
    assert page.locator("#answers img, #answers b").count() == 0


def test_the_keyboard_is_enough(page: Page) -> None:
    order = []
    for _ in range(7):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    assert order[:6] == ["file", "camera", "question", "ask", "slider", "aloud"], order
    with page.expect_file_chooser() as chooser:
        page.focus("#file")
        page.keyboard.press("Enter")
    chooser.value.set_files(EXAMPLES / "price.png")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("how much is it?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers li .scale:not([hidden])")
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    assert "10 in 100" in (page.get_attribute("#slider", "aria-valuetext") or "")


def test_a_screen_reader_finds_names_for_everything(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES / "price.png")
    ask(page, "how much is it?")
    tree = page.locator("body").aria_snapshot()
    for line in (
        'heading "edge-vqa" [level=1]',
        'textbox "Your question about the picture"',
        'button "Ask"',
        'slider "How often may an answer be wrong?"',
        'img "The picture that you ask about: price.png"',
        'meter "confidence 1.00, answers from 0.75"',
    ):
        assert line in tree, tree
    assert page.get_attribute("#answers", "aria-live") == "polite" and page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: str, page: Page) -> None:
    """WCAG 2.2, success criterion 1.4.3: a contrast of 4.5."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_input_files("#file", EXAMPLES / "price.png")
    ask(page, "how much is it?")
    page.fill("#slider", "0")
    ask(page, "what is this?")
    ratios = page.evaluate(
        """() => {
            const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
            const light = (colour) => {
                const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                const [r, g, b] = parts(colour).map((v) => linear(v / 255));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = (node) => {
                for (; node; node = node.parentElement) {
                    const colour = getComputedStyle(node).backgroundColor;
                    if ((parts(colour)[3] ?? 1) > 0) return colour;
                }
                return "rgb(255, 255, 255)";
            };
            const found = {};
            for (const node of document.querySelectorAll("h1, h2, p, label, button, summary, input[type=text]")) {
                if (!node.checkVisibility() || node.matches(".aside")) continue;
                const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
                found[node.id || node.className || node.textContent] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            }
            return found;
        }"""
    )
    assert len(ratios) > 10 and min(ratios.values()) >= 4.5, ratios


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_any_screen(width: int, page: Page) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.set_input_files("#file", EXAMPLES / "price.png")
    ask(page, "how much is it?" + "a" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("#camera", "#ask", "label[for=file]"):
        box = page.locator(name).bounding_box()
        assert box and box["height"] >= 44, (name, box)  # a finger's width


def test_a_token_comes_in_the_address_or_is_asked_for(browser: Browser) -> None:
    with serving("--token", "secret") as guarded:
        for address in (f"{guarded.address}/#token=secret", guarded.address):
            page = browser.new_context().new_page()
            page.goto(address)
            if "#" not in address:
                page.wait_for_selector("#token-form:not([hidden])")
                page.fill("#token", "secret")
                page.press("#token", "Enter")
            page.wait_for_selector("#risk:not([hidden])")
            page.set_input_files("#file", EXAMPLES / "price.png")
            ask(page, "how much is it?")
            assert page.locator("#answers .said").inner_text() == "$4.50" and "secret" not in page.url
            page.context.close()


def test_it_is_small_and_needs_nobody_else() -> None:
    assert sum(path.stat().st_size for path in PAGE.iterdir()) < 60_000
    for path in PAGE.iterdir():
        assert "http://" not in path.read_text() and "https://" not in path.read_text(), path

"""Takes the pictures of the page in the docs, with the base model: `python -m tests.edge_vqa.serve.screenshots`."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import EXAMPLES, ROOT
from tests.edge_vqa.serve.conftest import serving
from tests.edge_vqa.serve.test_page import CHROMIUM

QUESTIONS = ("how many cups are there?", "is it an animal?", "what do you see?")
VIEWS: dict[str, dict[str, Any]] = {
    "page": {"viewport": {"width": 1000, "height": 720}},
    "page-dark": {"viewport": {"width": 1000, "height": 720}, "color_scheme": "dark"},
    "page-phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


def ask(page: Page) -> None:
    page.wait_for_selector("#risk:not([hidden])")
    page.set_input_files("#file", EXAMPLES / "coffee.jpg")
    for number, question in enumerate(QUESTIONS, 1):
        page.fill("#question", question)
        page.press("#question", "Enter")
        expect(page.locator("#answers li .scale:visible")).to_have_count(number)
    page.locator("#question").blur()
    page.wait_for_timeout(500)  # until the bars stand still


def main() -> None:
    with serving("--model", "base") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, view in VIEWS.items():
            page = browser.new_context(**view).new_page()
            page.goto(server.address)
            ask(page)
            page.screenshot(path=ROOT / "docs" / f"{name}.png", full_page=True)
            page.context.close()
        browser.close()


if __name__ == "__main__":
    main()

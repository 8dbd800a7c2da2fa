"""The server's page in Chromium: what it shows, what it asks, and that it loads nothing from elsewhere.

Chromium is that of `playwright install chromium`, one on the path, or that of OPTIMUM_TEST_CHROMIUM; without one, these
tests are skipped.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
MILLISECONDS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    named = os.environ.get("OPTIMUM_TEST_CHROMIUM")
    program = named or next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except sync_api.Error as error:
            if named:
                raise
            pytest.skip(f"there is no browser here: {error.message.splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test where it writes an error to its console."""
    opened, wrong = browser.new_page(), []
    opened.set_default_timeout(MILLISECONDS)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    yield opened
    opened.close()
    assert not [text for text in wrong if "401" not in text]


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    return file.getvalue()


def test_it_shows_the_models_and_asks_them(page: Any, live: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(live.url)
    page.get_by_text("All models answer.").wait_for()
    rows = [row.inner_text().split("\t") for row in page.locator("#models tr").all()]
    assert [row[:2] for row in rows] == [
        ["encoder", "embedding"], ["reranker", "reranker"], ["classifier", "classifier"], ["writer", "generation"],
        ["pictures", "classifier"],
    ]  # fmt: skip
    assert all(row[3].startswith("verified") for row in rows)
    for model, said in (("encoder", "[\n"), ("classifier", '"GOOD"'), ("writer", '"role": "assistant"')):
        page.locator("#model").select_option(model)
        page.locator("#text").fill("w5 w9")
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("status 200").wait_for()
        assert said in page.locator("#answer").inner_text()
        page.evaluate("document.getElementById('answer').textContent = ''")
    page.locator("#model").select_option("pictures")
    assert page.locator("#text").is_hidden()
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": _picture()})
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("status 200").wait_for()
    assert '"LABEL_0"' in page.locator("#answer").inner_text()
    assert all(url.startswith(live.url) for url in asked)
    page.locator("#models tr", has_text="encoder").get_by_text(" ms").first.wait_for()


def test_it_asks_for_a_key_and_shows_text_of_models_as_text(page: Any, serve: Any) -> None:
    live = serve("encoder", api_keys=("secret",))
    page.goto(live.url)
    page.get_by_text("pass a valid key").wait_for()
    page.locator("#key").fill("secret")
    page.get_by_text("All models answer.").wait_for()
    page.locator("#text").fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("status 200").wait_for()
    assert page.locator("#answer img").count() == 0

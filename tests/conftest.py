"""What all tests share: every database is packed once a session, and pages are opened in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lavq_core.data.database import Database

SAMPLE = Path(__file__).resolve().parents[1] / "simulations" / "sample"
expect.set_options(timeout=60_000)  # a busy core is no fault of the page
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, whole runs before the rest: begun last, a long one leaves the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, "simulations" not in item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small are slower on several threads, and much slower on busy cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's cache folder, the same for all processes of pytest-xdist; a test that damages packs has its own."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "packs"


@pytest.fixture(scope="session")
def sample() -> Path:
    """The bundled sample; tests only read it."""
    return SAMPLE


@pytest.fixture(scope="session")
def sample_database(packs: Path) -> Database:
    """The bundled sample, opened; tests only read it."""
    return Database.open(SAMPLE, cache_dir=packs, progress=False)


@pytest.fixture(scope="session")
def full_database(packs: Path) -> Database:
    """PTB-XL, or the part of it that there is, opened; for tests that skip where LAVQ_PTBXL is not set."""
    return Database.open(os.environ["LAVQ_PTBXL"], cache_dir=packs)


@pytest.fixture(scope="module")  # while it is open, its thread has an event loop, which other tests start themselves
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("NO CHROMIUM IS INSTALLED: no page was tested in a browser")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open an address in a fresh window of a width; a script's error, or a refused request, fails the test."""
    contexts, faults = [], []

    def opened(address: str, width: int = 1400, dark: bool = False) -> Page:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    # A refused question is answered with a status that the browser reports as an error of its own.
    assert [fault for fault in faults if not re.search("status of 40[03]", fault)] == []

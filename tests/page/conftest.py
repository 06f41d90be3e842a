"""A real Chromium, the system's own, for tests of the page: offline, and every complaint of it kept."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHECK = Path(__file__).parents[2] / "scripts/browser_packages.sh"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; skips where there is none, with the line that changes that."""
    from playwright.sync_api import sync_playwright

    done = subprocess.run([CHECK], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=done.stdout.strip(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Open a file as a page; what its console says and what it asks the network for is checked when the test ends."""
    complaints: list[str] = []
    contexts = []

    def open_file(path: Path, *, size: dict[str, int] = DESK, fragment: str = "") -> Any:
        context = chromium.new_context(viewport=size, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: complaints.extend(foreign(request.url, path)))
        page.goto(path.absolute().as_uri() + fragment)
        assert page.evaluate("document.documentElement.dataset.ready") == "yes"  # scripts are done before it has loaded
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert not complaints


def foreign(address: str, path: Path) -> list[str]:
    """Return an address that is neither the page itself nor data in it."""
    is_own = address.startswith("data:") or address.partition("#")[0] == path.absolute().as_uri()
    return [] if is_own else [f"request: {address}"]

"""A real browser for what reps see, and the scripts that it loads, bundled by each app's own tools. Skips where either is absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

APPS = Path(__file__).parents[3] / "infra" / "crm_apps"
CHROMIUM = "/usr/bin/chromium"
HAS_BROWSER = Path(CHROMIUM).exists()
PICTURES = os.environ.get("HOOKLINE_TEST_PICTURES", "")
"""A folder that gets the pictures; none are kept without it."""


def bundled(folder: Path, out: Path) -> str:
    """The script of an app's component. Blocking, about a second; skips with what to do."""
    if shutil.which("node") is None:
        pytest.skip("no node on this machine: install Node 20")
    if not (folder / "node_modules").is_dir():
        pytest.skip(f"{folder.relative_to(APPS.parents[1])} has no node_modules: run `make apps`")
    done = subprocess.run(
        ["node", "bundle.mjs", str(out)], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return out.read_text()


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser without a screen; starting one takes seconds, so a module's tests share it."""
    if not HAS_BROWSER:
        pytest.skip(f"no browser at {CHROMIUM}: install chromium")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def page_of(
    started: Browser, html: str, *, width: int, height: int = 900
) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page, and what it complained of so far. No request of it leaves: every one is aborted."""
    complaints: list[str] = []
    context = await started.new_context(
        viewport={"width": width, "height": height}, locale="en-GB", timezone_id="UTC", device_scale_factor=2
    )
    try:
        page = await context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.route("**/*", lambda route: route.abort())
        await page.set_content(html)
        yield page, complaints
    finally:
        await context.close()


async def picture(page: Page, selector: str, name: str) -> bytes:
    """A picture of one element; also as a file where PICTURES says so."""
    taken = await page.locator(selector).screenshot()
    if PICTURES:
        (Path(PICTURES) / name).write_bytes(taken)
    return taken

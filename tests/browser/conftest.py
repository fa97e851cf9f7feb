"""Headless Chromium for the tests of the pages; everything is skipped with a clear line where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
# The rules' own version, so that a new release of axe does not fail a test of ours.
AXE = "axe-core@4.10.3"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if not CHROMIUM or not DRIVER:
                item.add_marker(
                    pytest.mark.skip(reason="Chromium is missing: apt-get install chromium chromium-driver")
                )


class Browser:
    """A page at a time, with what the tests need of it."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def look(self, size: str = "desktop", scheme: str = "light", height: int | None = None) -> None:
        """Choose the window's size and the colour scheme."""
        width, normal = SIZES[size]
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height or normal, "deviceScaleFactor": 1, "mobile": size == "phone"},
        )

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return its value."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """Return the first element of a selector."""
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text_of(self, selector: str) -> str:
        """Return the text of an element; empty while there is none, e.g. between two pages."""
        return str(self.run("return (document.querySelector(arguments[0]) || {}).innerText || ''", selector))

    def text(self) -> str:
        """Return what a person reads on the page."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def shoot(self, name: str, size: str, scheme: str) -> Path:
        """Save a screenshot of the whole page."""
        self.look(size, scheme)
        height = min(4000, int(self.run("return document.documentElement.scrollHeight")))
        self.look(size, scheme, height)
        path = self.folder / f"{name}-{size}-{scheme}.png"
        assert self.driver.save_screenshot(str(path))
        return path

    def complaints(self) -> list[str]:
        """Return what the browser complained of: scripts that failed, what the content security policy refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return the browser of the session. OPENMSI_STREAMS_SCREENSHOTS names a folder to keep screenshots in."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("chromium")
    # No sandbox: tests run as root in containers, and open our own pages only.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    folder = Path(os.environ.get("OPENMSI_STREAMS_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(60)
    try:
        yield Browser(driver, folder)
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source of axe-core, from AXE_CORE, node_modules, or npm."""
    for known in (os.environ.get("AXE_CORE", ""), "node_modules/axe-core/axe.min.js"):
        if known and Path(known).is_file():
            return Path(known).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core is missing: npm install axe-core, or name its axe.min.js in AXE_CORE")
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run([npm, "pack", AXE, "--silent"], cwd=folder, check=True, capture_output=True, timeout=90)
        shutil.unpack_archive(str(next(folder.glob("*.tgz"))), str(folder))
    except (subprocess.SubprocessError, OSError, StopIteration) as error:
        pytest.skip(f"axe-core could not be fetched with npm: {error}")
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Return a function that serves a fake worker until the test ends."""
    from openmsi_streams.config.settings import Settings
    from openmsi_streams.web.fake import FakeServer, FakeSource

    with ExitStack() as stack:

        def start(source: FakeSource, *, web: dict[str, Any] | None = None, **more: Any) -> FakeServer:
            settings = Settings()
            for name, value in (web or {}).items():
                setattr(settings.web, name, value)
            return stack.enter_context(FakeServer(source, settings, **more))

        yield start

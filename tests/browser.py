"""A real browser for tests: headless Chromium with every request written down.

Debian has it as chromium and chromium-driver. Where it is missing, the tests that need it are
skipped and say so.
"""

import contextlib
import importlib.util
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Without the last ones Chromium asks its maker's servers for updates at every start.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
)


def programs() -> tuple[str, str]:
    """Paths of browser and driver, or a skip with the reason."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip(
            f"no {'browser' if driver else 'driver'}: install Chromium and ChromeDriver "
            "(Debian: apt-get install chromium chromium-driver)"
        )
    return browser, driver


@contextlib.contextmanager
def chromium(*, width: int = 1280, height: int = 900) -> Iterator["Browser"]:
    """A browser with a profile of its own, closed at the end."""
    from selenium import webdriver

    program, driver = programs()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(executable_path=driver)
        window = webdriver.Chrome(options=options, service=service)
        try:
            yield Browser(window)
        finally:
            window.quit()


class Browser:
    """What the tests ask of a browser."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, page: Path | str) -> None:
        """Load a file or an address and forget what was logged before."""
        self.logs()
        self.driver.get(page.resolve().as_uri() if isinstance(page, Path) else page)

    def run(self, script: str, *arguments):
        """Value of a piece of JavaScript (the driver's own: a page's policy does not bind it)."""
        return self.driver.execute_script(script, *arguments)

    def do(self, command: str, **parameters):
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def logs(self) -> tuple[list[str], list[str]]:
        """(addresses requested since the last call, errors and warnings of the console)."""
        requested = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                requested.append(message["params"]["request"]["url"])
        errors = [f"{e['level']}: {e['message']}" for e in self.driver.get_log("browser")]
        return requested, errors

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False, media: str = ""):
        """Set the size of the window, the colour scheme and the medium."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """A screenshot of the page, or of the window, as PNG."""
        import base64

        shot = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        import base64

        printed = self.do(
            "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False
        )
        return base64.b64decode(printed["data"])


WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


LOOKS = tuple(itertools.product((390, 1280), (False, True)))


def violations(chrome: Browser, page: Path, looks: Iterable[tuple[int, bool]] = LOOKS) -> list[str]:
    """What axe-core finds in a page, all folds open: on a phone and on a desk, light and dark.

    `looks` are pairs of a width and whether dark is asked for.
    """
    (folder,) = importlib.util.find_spec("axe_playwright_python").submodule_search_locations
    axe = (Path(folder) / "axe.min.js").read_text()
    found = []
    for width, dark in looks:
        chrome.look(width=width, height=900, dark=dark)
        chrome.open(page)
        chrome.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        chrome.run("document.querySelectorAll('.open').forEach(box => box.checked = true)")
        chrome.run(axe)
        chrome.driver.set_script_timeout(
            600
        )  # minutes on a busy machine; selenium itself waits two
        chrome.driver.command_executor.client_config.timeout = 660
        found += chrome.driver.execute_async_script(
            "const [tags, done] = arguments;"
            "axe.run(document, {runOnly: tags, resultTypes: ['violations']}).then(r => done("
            "r.violations.map(v => v.id + ': ' + v.nodes[0].html.slice(0, 150))))",
            WCAG,
        )
    return sorted(set(found))


def width_on_a_phone(chrome: Browser, page: Path) -> int:
    """How wide a page is on a phone of 390 pixels, all folds open."""
    chrome.look(width=390, height=844)
    chrome.open(page)
    chrome.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    chrome.run("document.querySelectorAll('.open').forEach(box => box.checked = true)")
    return chrome.run("return document.documentElement.scrollWidth")

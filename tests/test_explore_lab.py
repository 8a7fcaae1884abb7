"""JupyterLab in a real browser: start page, notebook, panel; a control moves, the picture too."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import browser
import nbformat
import pytest

pytestmark = pytest.mark.slow  # a browser

CELLS = [
    "# A panel",
    "import pandas as pd\n\nfrom pet_lab.workbench import explore\n\nrows = pd.DataFrame(\n"
    "    {'level': x, 'method': m, 'replicate': r, 'metric': q, 'value': x * k + r}\n"
    "    for x in (1.0, 2.0, 3.0) for m, k in (('a', 1), ('b', 2))\n"
    "    for q in ('recall', 'precision') for r in range(3)\n)",
    "explore.rows(rows, x='level', metric='recall', hue='method')",
    "explore.call(lambda n: {'square': n * n}, {'n': (1, 9, 1, 3)}, caption='Squares')",
]
START = "# Start here\n\n- [The panel](demo/panel.ipynb): a panel to play with\n"
TOKEN = "only-for-this-test"


def make(root: Path) -> None:
    folder = root / "notebooks" / "demo"
    folder.mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')
    (root / "notebooks" / "README.md").write_text(START)
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(c) if i else nbformat.v4.new_markdown_cell(c)
            for i, c in enumerate(CELLS)
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, folder / "panel.ipynb")


@contextlib.contextmanager
def lab(root: Path) -> Iterator[str]:
    """Address of a JupyterLab started by `pet-lab lab`, ended with its kernels."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = root / "home"
    home.mkdir()
    # A container's user is often root, whom the server refuses unless told otherwise.
    (home / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
    environment = os.environ | {
        "PET_LAB_HOME": str(root),
        "JUPYTER_TOKEN": TOKEN,
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_RUNTIME_DIR": str(home),
        "JUPYTERLAB_SETTINGS_DIR": str(home),
        "JUPYTERLAB_WORKSPACES_DIR": str(home),
        "IPYTHONDIR": str(home),
    }
    environment.pop("PET_LAB_BATCH", None)
    command = [sys.executable, "-m", "pet_lab.cli", "lab", "--no-browser", f"--port={port}"]
    with open(root / "lab.log", "wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            assert server.poll() is None, (root / "lab.log").read_text()[-2000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2)
                break
            time.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def test_start_page_panel_and_moving_figure(tmp_path):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser.programs()
    make(tmp_path)
    with lab(tmp_path) as address, browser.chromium(height=1400) as chrome:
        driver = chrome.driver
        # A picture may be replaced between being found and being read.
        wait = WebDriverWait(driver, 40, ignored_exceptions=[StaleElementReferenceException])

        def find(selector: str):
            return wait.until(lambda d: d.find_element(By.CSS_SELECTOR, selector))

        def picture() -> str:
            return find(".jp-OutputArea img").get_attribute("src")

        driver.get(f"{address}/?token={TOKEN}")
        find(".jp-RenderedMarkdown a[href*='panel.ipynb']").click()
        find(".jp-Notebook .jp-CodeCell")
        wait.until(lambda d: "Idle" in d.find_element(By.CSS_SELECTOR, "body").text)
        menu = wait.until(
            lambda d: next(
                e for e in d.find_elements(By.CSS_SELECTOR, ".lm-MenuBar-item") if e.text == "Run"
            )
        )
        menu.click()
        find(".lm-Menu-item[data-command='runmenu:run-all']").click()

        first = picture()
        words = find(".jp-OutputArea img").get_attribute("alt")
        assert "recall against level, one line per method" in words
        labels = [e.text for e in driver.find_elements(By.CSS_SELECTOR, ".widget-label")]
        assert {"Metric", "Against", "Lines by", "method", "n"} <= set(labels)

        chooser = find(".widget-dropdown select")
        Select(chooser).select_by_visible_text("precision")
        wait.until(lambda _: "precision against" in find(".jp-OutputArea img").get_attribute("alt"))
        assert picture() != first

        shot = os.environ.get("PET_LAB_SHOT")
        if shot:
            chrome.picture(Path(shot), whole=False)
        slider = find(".widget-slider .noUi-handle")
        assert "9" in wait.until(lambda d: find(".jp-OutputArea [data-pet-lab] tbody").text)
        ActionChains(driver).click(slider).send_keys(Keys.ARROW_RIGHT).perform()
        wait.until(lambda d: "16" in find(".jp-OutputArea [data-pet-lab] tbody").text)

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

from pet_lab.workbench import sweep
from pet_lab.workbench.workspace import Workspace

pytestmark = pytest.mark.slow  # a browser

CELLS = [
    "# A panel",
    "import pandas as pd\n\nfrom pet_lab.workbench import explore\n\nrows = pd.DataFrame(\n"
    "    {'level': x, 'method': m, 'replicate': r, 'metric': q, 'value': x * k + r}\n"
    "    for x in (1.0, 2.0, 3.0) for m, k in (('a', 1), ('b', 2))\n"
    "    for q in ('recall', 'precision') for r in range(3)\n)",
    "explore.rows(rows, x='level', metric='recall', hue='method')",
    "explore.call(\n    lambda n, share_of_records_with_a_perturbed_date: {'square': n * n},\n"
    "    {'n': (1, 9, 1, 3), 'share_of_records_with_a_perturbed_date': (0.0, 1.0)},\n"
    "    caption='Squares',\n)",
]
START = "# Start here\n\n- [The panel](demo/panel.ipynb): a panel to play with\n"
TOKEN = "only-for-this-test"
ROOT = Path(__file__).resolve().parents[1]


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
        assert {"Metric", "Against", "Lines by", "n"} <= set(labels)

        chooser = find(".widget-dropdown select")
        Select(chooser).select_by_visible_text("precision")
        wait.until(lambda _: "precision against" in find(".jp-OutputArea img").get_attribute("alt"))
        assert picture() != first

        shot = os.environ.get("PET_LAB_SHOT")
        if shot:
            chrome.picture(Path(shot), whole=False)
        tracks = driver.find_elements(By.CSS_SELECTOR, ".widget-slider .slider-container")
        assert len(tracks) == 2
        assert min(track.size["width"] for track in tracks) > 60  # also beside a long label
        slider = find(".widget-slider .noUi-handle")
        assert "9" in wait.until(lambda d: find(".jp-OutputArea [data-pet-lab] tbody").text)
        ActionChains(driver).click(slider).send_keys(Keys.ARROW_RIGHT).perform()
        wait.until(lambda d: "16" in find(".jp-OutputArea [data-pet-lab] tbody").text)


# Parameters of a small run, a control, what it is set to, and what is said then.
REAL = {
    "psi/analytics": (
        {"replicates": 2},
        "epsilon of the noise, 0: none",
        "0.1",
        "All 9 cells leave",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_the_panel_of_a_real_notebook(tmp_path, name):
    """Run in the lab as a user runs it: one control is changed, and what changed is said."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser.programs()
    parameters, label, value, text = REAL[name]
    make(tmp_path)
    real = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    at = next(i for i, c in enumerate(real.cells) if "parameters" in c.metadata.get("tags", []))
    lines = "\n".join(f"{key} = {given!r}" for key, given in parameters.items())
    real.cells.insert(at + 1, nbformat.v4.new_code_cell(lines))
    nbformat.write(real, tmp_path / "notebooks" / "demo" / "panel.ipynb")
    with lab(tmp_path) as address, browser.chromium(height=1600) as chrome:
        driver = chrome.driver
        wait = WebDriverWait(driver, 240, ignored_exceptions=[StaleElementReferenceException])

        def all_of(selector: str):
            return driver.find_elements(By.CSS_SELECTOR, selector)

        def shown() -> str:
            return " ".join(e.text for e in all_of(".widget-output"))

        driver.get(f"{address}/?token={TOKEN}")
        wait.until(lambda _: all_of(".jp-RenderedMarkdown a[href*='panel.ipynb']"))[0].click()
        wait.until(lambda _: all_of(".jp-Notebook .jp-CodeCell"))
        wait.until(lambda d: "Idle" in d.find_element(By.CSS_SELECTOR, "body").text)
        next(e for e in all_of(".lm-MenuBar-item") if e.text == "Run").click()
        wait.until(lambda _: all_of(".lm-Menu-item[data-command='runmenu:run-all']"))[0].click()
        wait.until(lambda _: all_of(".widget-output img, .widget-output table"))
        boxes = all_of(".widget-dropdown")
        chosen = next(b for b in boxes if b.text.splitlines()[0].strip() == label)
        Select(chosen.find_element(By.CSS_SELECTOR, "select")).select_by_visible_text(value)
        wait.until(lambda _: f"Changed: {label} = {value}, was" in shown())
        assert text in shown()
        if shot := os.environ.get("PET_LAB_SHOT"):
            chrome.picture(Path(shot) / f"{name.replace('/', '-')}.png", whole=False)
        assert not all_of(".jp-Accordion img, .widget-accordion img"), "folded until it is opened"
        all_of(
            ".widget-accordion .jupyter-widget-Collapse-header, .jupyter-widget-Collapse-header"
        )[-1].click()
        wait.until(lambda _: all_of(".jupyter-widget-Collapse-open img"))


# Their smallest run takes some seconds; the others' take minutes, too long for a browser to wait.
DESIGNED = (
    "psi/typos",
    "psi/protocol",
    "psi/linkage_simulation",
    "primers/private_data_science",
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One lab with the real notebooks at their smallest, one browser: (address, driver)."""
    root = tmp_path_factory.mktemp("real")
    make(root)
    (root / "data").symlink_to(ROOT / "data")
    for name in DESIGNED:
        real = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
        at = next(i for i, c in enumerate(real.cells) if "parameters" in c.metadata.get("tags", []))
        smallest = sweep.profile(Workspace(ROOT), name, "smoke").parameters
        lines = "\n".join(f"{key} = {given!r}" for key, given in smallest.items())
        real.cells.insert(at + 1, nbformat.v4.new_code_cell(lines))
        nbformat.write(real, root / "notebooks" / "demo" / f"{Path(name).name}.ipynb")
    browser.programs()
    offline = {"PET_LAB_OFFLINE": "1", "PET_LAB_CACHE": str(root / "cache")}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.ExitStack() as stack,
    ):
        patch.delenv("PET_LAB_DATA", raising=False)
        for variable, value in offline.items():
            patch.setenv(variable, value)
        address = stack.enter_context(lab(root))
        yield address, stack.enter_context(browser.chromium(height=1600))


@pytest.mark.parametrize("name", DESIGNED)
def test_the_designed_panel_answers_in_its_real_notebook(opened, name):
    """Run all, move the first control of the first panel: what is said or drawn changes."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    address, chrome = opened
    driver = chrome.driver
    wait = WebDriverWait(driver, 240, ignored_exceptions=[StaleElementReferenceException])

    def all_of(selector: str):
        return driver.find_elements(By.CSS_SELECTOR, selector)

    page = f"tree/notebooks/demo/{Path(name).name}.ipynb"
    driver.get(f"{address}/lab/workspaces/{Path(name).name}/{page}?reset&token={TOKEN}")
    wait.until(lambda _: all_of(".jp-Notebook .jp-CodeCell"))
    wait.until(lambda d: "Idle" in d.find_element(By.CSS_SELECTOR, "body").text)
    next(e for e in all_of(".lm-MenuBar-item") if e.text == "Run").click()
    wait.until(lambda _: all_of(".lm-Menu-item[data-command='runmenu:run-all']"))[0].click()
    wait.until(lambda _: all_of(".widget-gridbox ~ .widget-output img, .widget-gridbox ~ * table"))

    def answer() -> str:
        output = all_of(".widget-gridbox ~ *")[0]
        images = output.find_elements(By.CSS_SELECTOR, "img")
        return output.text + "".join(i.get_attribute("alt") for i in images)

    before = answer()
    tracks = all_of(".widget-gridbox .slider-container")
    assert all(track.size["width"] > 60 for track in tracks)
    control = all_of(".widget-gridbox > *")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", control)
    if choices := control.find_elements(By.CSS_SELECTOR, "select"):
        Select(choices[0]).select_by_index(1)
    else:
        handle = control.find_element(By.CSS_SELECTOR, ".noUi-handle")
        ActionChains(driver).click(handle).send_keys(Keys.ARROW_RIGHT).perform()
    wait.until(lambda _: answer() and answer() != before)
    if "Changed" not in answer():
        assert name == "primers/private_data_science", "what changed is said"

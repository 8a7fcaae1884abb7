"""Every page of a built workspace in a real browser: nothing leaves, everything can be read."""

import re
import time

import browser
import demo
import pytest
from browser import violations, width_on_a_phone

from pet_lab.workbench import report

pytestmark = pytest.mark.slow  # a browser

PAGES = (
    "index",
    "scorecard",
    "failures",
    "glossary",
    "psi-typos",
    "psi-typos-sweep",
    "private_ml-training",
)

CONTRAST = """
// Lowest contrast of any visible text with the nearest opaque background behind it.
const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
const lum = c => { const f = c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92
  : ((v + .055) / 1.055) ** 2.4); return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
let worst = [21, ''];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const el = walk.currentNode.parentElement, style = getComputedStyle(el);
  if (!walk.currentNode.textContent.trim() || !el.getClientRects().length) continue;
  if (el.closest('[aria-hidden=true]')) continue;
  let back = el, paint;
  do { paint = rgb(getComputedStyle(back).backgroundColor); back = back.parentElement; }
  while (back && paint.length === 4 && paint[3] === 0);
  if (paint.length === 4 && paint[3] === 0) throw 'no background behind ' + el.outerHTML;
  const [a, b] = [lum(rgb(style.color)), lum(paint)].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < worst[0]) worst = [ratio, el.outerHTML.slice(0, 120)];
}
return worst;
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    ws = demo.workspace(tmp_path_factory.mktemp("demo"))
    report.build(ws)
    return ws.reports


@pytest.fixture(scope="module")
def chrome():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(params=PAGES)
def page(request, reports):
    return reports / f"{request.param}.html"


def test_nothing_leaves_and_nothing_complains(chrome, page):
    chrome.look()
    chrome.open(page)
    requested, errors = chrome.logs()
    assert {u for u in requested if not u.startswith("data:")} == {page.as_uri()}
    assert errors == []


def test_what_a_page_offers_can_be_stored(chrome, reports, tmp_path):
    chrome.open(reports / "psi-typos-sweep.html")
    chrome.do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    wanted = chrome.run(
        "return [...document.querySelectorAll('a[download]')].map(a => (a.click(), a.download))"
    )
    assert {name[-4:] for name in wanted} == {".csv", ".svg"}
    until = time.monotonic() + 20
    while len(list(tmp_path.glob("*.[cs][sv]*"))) < len(wanted) and time.monotonic() < until:
        time.sleep(0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(wanted)
    grid = (tmp_path / wanted[0]).read_text()
    assert grid.startswith("error_rate,run,state,")


def test_the_browser_itself_refuses_requests(chrome, reports, tmp_path):
    """The policy works: an image and a script slipped into a page are both blocked."""
    html = (reports / "index.html").read_text()
    spoilt = tmp_path / "spoilt.html"
    intruders = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "taken"</script>'
    spoilt.write_text(html.replace("</main>", intruders + "</main>"))
    chrome.open(spoilt)
    _, errors = chrome.logs()
    assert sum("Content Security Policy" in e for e in errors) >= 2
    assert chrome.driver.title != "taken"


def test_pictures_have_words_and_load(chrome, page):
    chrome.look()
    chrome.open(page)
    pictures = chrome.run(
        "return Promise.all([...document.querySelectorAll('img, [role=img]')].map(async i => {"
        "if (i.decode) await i.decode();"
        "return [i.getAttribute('alt') || i.getAttribute('aria-label') || '',"
        " i.naturalWidth ?? i.getBoundingClientRect().width]}))"
    )
    assert all(len(words) > 10 and width > 50 for words, width in pictures)
    if page.stem in ("psi-typos", "index"):
        assert pictures


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_contrasts_in_both_schemes(chrome, page, dark):
    chrome.look(dark=dark)
    chrome.open(page)
    chrome.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    ratio, where = chrome.run(CONTRAST)
    assert ratio >= 4.5, where
    background = chrome.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 150) == dark


def test_no_violation_of_wcag(chrome, page):
    assert violations(chrome, page) == []


def test_axe_sees_a_violation(chrome, reports, tmp_path):
    spoilt = tmp_path / "spoilt.html"
    html = (reports / "failures.html").read_text()
    spoilt.write_text(html.replace("</main>", '<input><p style="color:#ccc">pale</p></main>'))
    found = [line.partition(":")[0] for line in violations(chrome, spoilt)]
    assert {"label", "color-contrast"} <= set(found)


def test_phone_scrolls_one_way(chrome, page):
    assert width_on_a_phone(chrome, page) <= 390


def test_structure_for_those_who_listen(chrome, page):
    chrome.look()
    chrome.open(page)
    outline = chrome.run(
        "const all = s => [...document.querySelectorAll(s)];"
        "return {lang: document.documentElement.lang, title: document.title,"
        "levels: all('h1,h2,h3,h4,h5,h6').map(h => +h.tagName[1]),"
        "ids: all('[id]').map(e => e.id),"
        "inside: all('a[href^=\"#\"]').map(a => a.getAttribute('href').slice(1)),"
        "files: all('a[href]').map(a => a.getAttribute('href'))"
        ".filter(h => !/^(#|https?:|data:)/.test(h)),"
        "unnamed: all('nav').filter(n => !n.getAttribute('aria-label') &&"
        " !n.getAttribute('aria-labelledby')).length,"
        "mains: all('main').length, scripts: all('script').length,"
        "tables: all('table').map(t => [!!t.caption || !!t.closest('[aria-label]'),"
        " [...t.querySelectorAll('thead th')].every(h => h.scope === 'col')])}"
    )
    assert outline["lang"] == "en"
    assert len(outline["title"]) > 8
    assert outline["levels"][0] == 1
    assert outline["levels"].count(1) == 1
    assert all(b - a <= 1 for a, b in zip(outline["levels"], outline["levels"][1:], strict=False))
    assert len(set(outline["ids"])) == len(outline["ids"])
    assert set(outline["inside"]) <= set(outline["ids"])
    for target in outline["files"]:
        assert (page.parent / target.partition("#")[0]).is_file(), target
    assert outline["unnamed"] == 0
    assert outline["mains"] == 1
    assert outline["scripts"] == 0
    assert all(named and scoped for named, scoped in outline["tables"])


def test_keyboard_reaches_text_and_wide_tables(chrome, reports):
    from selenium.webdriver import ActionChains, Keys

    chrome.look()
    chrome.open(reports / "psi-typos.html")
    focused = []
    for _ in range(14):
        ActionChains(chrome.driver).send_keys(Keys.TAB).perform()
        focused.append(
            chrome.run(
                "const e = document.activeElement;"
                "return [e.className || e.tagName, getComputedStyle(e).outlineStyle]"
            )
        )
    assert focused[0][0] == "skip"
    assert all(style != "none" for _, style in focused)
    ActionChains(chrome.driver).send_keys(Keys.HOME).perform()
    chrome.run("document.querySelector('.skip').focus()")
    ActionChains(chrome.driver).send_keys(Keys.ENTER).perform()
    assert chrome.run("return document.activeElement.id") == "main"


def test_print_shows_the_argument_without_the_code(chrome, page):
    chrome.look(media="print", width=794)
    chrome.open(page)
    shown = chrome.run(
        "return [...document.querySelectorAll("
        "'.code, .contents, .bar, .fold:not([open]), .whatif label:not(:has(:checked))')]"
        ".filter(e => e.getClientRects().length).length"
    )
    assert shown == 0
    white = chrome.run(  # backgrounds are not printed by default: a chosen setting is read without
        "return [...document.querySelectorAll('.whatif :checked + span')].filter("
        "e => getComputedStyle(e).color !== getComputedStyle(document.body).color).length"
    )
    assert white == 0
    wide = chrome.run(
        "return [...document.querySelectorAll('table, img, math')].filter("
        "e => e.getBoundingClientRect().right > 794).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    chrome.look()
    pdf = chrome.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 10_000


def test_mathematics_is_drawn_without_a_script(chrome, reports):
    chrome.look()
    chrome.open(reports / "psi-typos.html")
    sizes = chrome.run(
        "return [...document.querySelectorAll('math')].map("
        "m => [m.getBoundingClientRect().height, m.getAttribute('alttext')])"
    )
    assert len(sizes) >= 6
    assert all(height > 5 and words for height, words in sizes)
    assert max(height for height, _ in sizes) > 30  # the displayed fraction


def test_a_panel_answers_without_a_script(chrome, reports):
    """Each choice leaves the rows of its settings, by mouse and by keyboard."""
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    def visible(panel):
        rows = panel.find_elements(By.CSS_SELECTOR, "tbody tr")
        return [r.text for r in rows if r.is_displayed()]

    chrome.look()
    chrome.open(reports / "psi-typos.html")
    stored, power = chrome.driver.find_elements(By.CSS_SELECTOR, ".whatif")
    assert len(visible(stored)) == 10  # five thresholds, two methods
    chooser = stored.find_element(By.XPATH, ".//label[span='naive']/input")
    ActionChains(chrome.driver).click(chooser).perform()
    assert len(visible(stored)) == 5
    assert all("naive" in text for text in visible(stored))
    assert visible(power) == ["z 2.012", "records 20"]
    sign = power.find_element(By.XPATH, ".//label[span='sign']/input")
    ActionChains(chrome.driver).click(sign).perform()
    assert visible(power) == ["z 1.61", "records 20"]
    ActionChains(chrome.driver).send_keys(Keys.ARROW_UP).perform()  # back to the z test
    assert visible(power) == ["z 2.012", "records 20"]
    assert len(visible(stored)) == 5
    assert chrome.run("return document.scripts.length") == 0


def test_the_scorecard_folds_filters_and_leads_to_a_cell(chrome, reports):
    from selenium.webdriver.common.by import By

    def visible(selector):
        return [
            e for e in chrome.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()
        ]

    chrome.look()
    page = reports / "scorecard.html"
    chrome.open(page)
    assert visible("tr.cell") == []
    chrome.driver.find_element(By.CSS_SELECTOR, ".unfold").click()
    assert len(visible("tr.cell")) == 4
    chrome.run("document.querySelector('.open').click()")
    chrome.run("document.querySelector('#only-differs').click()")
    assert len(visible("tr.cell")) == 1
    assert len(visible(".printed")) == 1  # the other table has none
    chrome.run("document.querySelector('#only-not-run').click()")
    assert len(visible("tr.cell")) == 4
    chrome.open(reports / "failures.html")
    chrome.open(f"{page.as_uri()}#at-2-4-error-rate-0-2-threshold-0-5-method-naive-recall-actual")
    assert len(visible("tr.cell")) == 4
    assert len(visible("tr:target")) == 1
    chrome.run("document.querySelector('#only-differs').click()")
    assert visible("tr:target"), "a filter hides no cell that a link leads to"

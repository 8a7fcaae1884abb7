"""What a report says, and what the guard keeps out of it."""

import base64
import contextlib
import io
import json
import re
import shutil
from html import escape
from pathlib import Path

import demo
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from pet_lab import files
from pet_lab.workbench import plots, report, results, runs, scorecard, sweep
from pet_lab.workbench.report import exporter, pages, sweeps

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    ws = demo.workspace(tmp_path_factory.mktemp("demo"))
    return ws, report.build(ws)


def soup(path):
    return BeautifulSoup(path.read_text(), "html5lib")


# --- the pages ---------------------------------------------------------------------------------


def test_all_pages_are_written_and_listed(built):
    ws, written = built
    names = {p.name for p in written}
    assert names == {
        *("psi-typos.html", "psi-typos-sweep.html", "private_ml-training.html"),
        *("index.html", "scorecard.html", "failures.html", "glossary.html"),
    }
    index = soup(ws.reports / "index.html")
    links = {a["href"] for a in index.select(".cards a")}
    assert links == {"psi-typos.html", "private_ml-training.html"}
    assert "2 reproduced" in index.select_one(".key").text
    assert index.select_one(".headline").text.startswith("Of 8 printed cells")
    assert len(index.select(".cards img")) == 2
    assert "Failed" in index.select_one(".cards .todo").text
    for cards in index.select(".cards"):
        todo = ["todo" in card.get("class", ()) for card in cards.find_all("li", recursive=False)]
        assert todo == sorted(todo), "what ran comes first"


def test_a_report_opens_with_what_matters_and_ends_with_where_it_is_from(built):
    page = soup(built[0].reports / "psi-typos.html")
    words = " ".join(page.article.get_text(" ").split())
    order = [
        "Exact linkage with typos",
        "The corrected total is unbiased",
        "A simulation on one machine, not a secure deployment",
        "The parties learn which records match",
        "20 November 2026",
        "Claim.",
        "be the number of records",
        "misses one record in five",
        "Parameters of this run",
        "share of records with a perturbed date",
        "Provenance Run",
        "0123456789abcdef0123456789abcdef01234567",
        "ab" * 32,
        "pet-lab run psi/typos",
    ]
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    assert page.select_one("header .headline")


def test_a_stand_in_is_named_in_the_first_line(built):
    ws, _ = built
    page = soup(ws.reports / "private_ml-training.html")
    first = next(page.main.stripped_strings)
    assert first.startswith("Made from a synthetic stand-in, not from the real data")
    assert "stand-in" in soup(ws.reports / "index.html").select_one(".cards .notice").text
    assert page.find("a", href="https://doi.org/10.24432/C5TG7T")


def test_body_is_an_argument_not_a_dump(built):
    page = soup(built[0].reports / "psi-typos.html")
    body = page.article
    assert "Warning" not in body.text  # stderr
    assert [h.text for h in body.find_all("h2")].count("Explore") == 1
    assert body.select_one(".whatif > h2 + p").text == "What does a lower threshold cost?"
    assert body.text.count("threshold cost?") == 1, "asked of the first panel alone"
    assert "error_rate: float" not in body.text  # shown as a table instead
    assert all(details.get("open") is None for details in body.select("details.code"))
    folds = [d.pre.text for d in body.select("details.code")]
    assert any("import numpy" in f and "from pet_lab import linkage" in f for f in folds)
    assert [c.select_one(".no").text for c in body.select("figcaption")] == [
        "Figure 1.",
        "Figure 2.",
    ]
    captions = [c.text for c in body.select("caption") if c.select_one(".no")]
    assert [c.partition(".")[0] for c in captions] == [f"Table {i}" for i in range(1, 6)]
    assert body.select_one("figcaption strong").text == "every"
    assert body.select_one("figcaption math")


def stored(link):
    assert link["download"].endswith(f".{link.text.split()[0].lower()}")
    return base64.b64decode(link["href"].partition(",")[2]).decode()


def test_tables_and_figures_can_be_taken_away(built):
    ws, _ = built
    page = soup(ws.reports / "psi-typos.html")
    tables = page.select(".output > .pl-table > table")
    assert len(tables) == 3
    assert all(table.parent.select("a.get[download$='.csv']") for table in tables)
    totals = tables[2]
    read = pd.read_csv(io.StringIO(stored(totals.parent.select_one("a.get"))))
    rows = demo.rows_of(0.2, 7).query("metric == 'total'")
    means = rows.groupby(["threshold", "method"])["value"].mean()
    assert read.set_index(["threshold", "method"])["mean"].to_dict() == pytest.approx(
        means.to_dict(), rel=1e-9
    ), "to ten digits, however it is shown"
    assert f"{means.iloc[0]:,.0f}" in totals.text
    figures = page.select("figure")
    assert len(figures) == 2
    for figure in figures:
        link = figure.select_one("figcaption a.get")
        assert link["href"] == figure.img["src"]
        assert stored(link).lstrip().startswith("<?xml")
    grid = soup(ws.reports / "psi-typos-sweep.html")
    whole = pd.read_csv(io.StringIO(stored(grid.select_one("#grid ~ .pl-table a.get"))))
    assert whole["error_rate"].tolist() == [0.2, 0.1, 0.3]
    assert (whole["total low"] < whole["total"]).all()
    assert len(grid.select("figure")) == len(grid.select("figcaption a[download$='.svg']")) == 2


def test_the_scorecard_says_whose_it_is(built):
    page = soup(built[0].reports / "scorecard.html")
    link = page.select_one("header a.get")
    assert link.text == "CSV (quick profile, commit 0123456789ab)"
    assert link["download"] == "scorecard-quick-commit-0123456789ab.csv"
    card = pd.read_csv(io.StringIO(stored(link)), dtype=str, keep_default_na=False)
    assert list(card.columns) == [*scorecard.COLUMNS, "profile", "commit"]
    assert card.groupby("table")[["profile", "commit"]].first().to_numpy().tolist() == [
        ["quick", "0123456789ab"],
        ["", ""],
    ], "a stand-in counts for nothing"


def test_links_lead_to_reports_or_nowhere(built):
    page = soup(built[0].reports / "psi-typos.html")
    source = next(p for p in page.article.select("p") if "See also" in p.text)
    links = {a.text: a["href"] for a in source.select("a")}
    assert links["the other track"] == "private_ml-training.html"
    assert "a local file" in source.text
    assert "a local file" not in links


def test_a_sweep_averages_over_replicates_only(built):
    page = soup(built[0].reports / "psi-typos-sweep.html")
    rows = page.select("#metric-recall-actual ~ .pl-table tbody tr")
    assert len(rows) == 3 * 5 * 2
    assert {tr.select("td")[-1].text for tr in rows} == {"30"}
    assert "at threshold = 0.5" in page.figcaption.text
    first = [tr.td.text for tr in rows]
    assert first == sorted(first)


def test_a_sweep_without_replicates_speaks_of_no_intervals(built):
    records = runs.records(built[0], "psi/typos")[:2]
    rows = results.read(built[0], "psi/typos", [r.run_id for r in records])
    one = rows.groupby(["run_id", "metric"], as_index=False).first().assign(method="")
    two = one.assign(method="naive", value=0.0)
    grid = sweeps.content(records, pd.concat([one, two]), {records[0].run_id: "page.html"})
    assert (grid["intervals"], grid["unlinked"]) == (False, 1)
    assert grid["held"].endswith("method = none")


def test_the_page_of_a_sweep_opens_with_its_grid(built, tmp_path):
    shutil.copytree(built[0].root, tmp_path / "copy")
    ws = type(built[0])(tmp_path / "copy")
    records = runs.records(ws, "psi/typos")
    failed = runs.of_spec(sweep.plan(ws, "psi/typos", {"error_rate": 0.9})[0], ws, state="failed")
    path = report.build_sweep(ws, [*records[:2], failed])
    assert path.name.startswith("psi-typos-sweep-")
    assert path == report.build_sweep(ws, [failed, *records[1::-1]]), "a name of the grid alone"
    page = soup(path)
    assert "3 runs over share of records with a typo" in page.select_one(".headline").text
    assert "; 1 is not done" in page.select_one(".headline").text
    assert "Monte Carlo" in page.select_one(".headline").text
    assert "report --run" not in page.text, "what failed has no report to offer"
    heads = [th.text for th in page.select("#grid ~ .pl-table th")]
    assert heads == ["share of records with a typo", "recall, actual", "total", "runtime", "run"]
    lines = [
        [td.text for td in tr.select("td")] for tr in page.select("#grid ~ .pl-table tbody tr")
    ]
    assert lines[0][:1] + lines[0][3:] == ["0.9", "failed", failed.run_id]
    assert [line[0] for line in lines[1:]] == [
        str(r.parameters["error_rate"]) for r in records[1::-1]
    ]
    rows = results.read(ws, "psi/typos", [records[0].run_id]).query("metric == 'recall_actual'")
    one = rows[(rows["threshold"] == 0.5) & (rows["method"] == "naive")]["value"]
    mean, half = map(float, lines[2][1].split(" ± "))
    assert mean == pytest.approx(one.mean(), abs=0.0006)
    assert half == pytest.approx(1.96 * one.sem(), abs=0.0006)
    assert "at threshold = 0.5, method = naive" in page.caption.text
    links = [a["href"] for a in page.select("#grid ~ .pl-table td a")]
    assert links == [f"psi-typos-{r.run_id}.html" for r in records[1::-1]]
    assert all((ws.reports / link).is_file() for link in links)

    assert report.build_sweep(ws, records).name == "psi-typos-sweep.html", "a profile's grid"
    assert report.build_sweep(ws, records[:1]).name == f"psi-typos-{records[0].run_id}.html"
    assert report.build_sweep(ws, [failed]) is None


def test_failures_tell_where_but_nothing_that_an_error_says(built, tmp_path):
    page = soup(built[0].reports / "failures.html")
    assert "FileNotFoundError in cell 6" in page.text
    assert "pet-lab status psi/protocol" in page.code.parent.parent.text
    for hidden in ("/home", "secret", "data.csv", "Traceback"):
        assert hidden not in page.text
    shutil.copytree(built[0].root, tmp_path / "copy")
    ws = type(built[0])(tmp_path / "copy")
    error = {"name": "KeyError", "value": "'monthly_wage' of 'Anna Kowalska'", "cell": 3}
    demo.add_failure(ws, "psi/protocol", error, seed=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_report", lambda *_: {}["monthly_wage"])
        with pytest.raises(report.RefusedReports, match="monthly_wage"):  # who runs it may see it
            report.build(ws)
    for path in ws.reports.glob("*.html"):
        assert "monthly_wage" not in path.read_text(), path
        assert "Kowalska" not in path.read_text(), path
    assert "KeyError in cell 3" in soup(ws.reports / "failures.html").text
    assert "KeyError in its report" in soup(ws.reports / "failures.html").text


def test_the_index_says_whose_numbers_and_what_the_words_mean_before_what_failed(built):
    page = soup(built[0].reports / "index.html")
    words = page.main.get_text(" ", strip=True)
    order = ["Numbers printed in", "Of 8 printed cells", "2 reproduced", "What these words mean"]
    order += ["the authors’ own program", "Private set intersection", "1 run or report failed"]
    assert [words.index(text) for text in order] == sorted(words.index(text) for text in order)


def test_the_glossary_is_a_page_that_every_page_links(built):
    ws, written = built
    for path in written:
        links = [a["href"] for a in soup(path).select("nav a, footer a")]
        assert links.count("glossary.html") == 2, path
    page = soup(ws.reports / "glossary.html")
    assert [h.text for h in page.find_all("h1")] == ["Glossary"]
    assert [a["href"] for a in page.select(".contents a")] == ["#privacy", "#linkage"]
    assert page.article.find("math")
    assert [a["href"] for a in page.select("#privacy ~ p a")] == ["psi-typos.html"]
    assert page.select_one("td").text == "recall"


def test_a_term_is_spelt_out_and_linked_at_its_first_use_only():
    terms = exporter.Terms(
        "**Differential privacy (DP).** A promise.\n\n**LiRA.** Likelihood-ratio attack: a test."
        "\n\n**Clip.** The largest length.\n\n**DP-SGD.** Training with clipped gradients.\n"
    )
    first = terms.explain(
        "<p>LiRA against DP-SGD, <code>LiRA</code> and DP with a clip &lt;x&gt;</p>"
    )
    assert first == (
        '<p><a class="term" href="glossary.html#lira">LiRA</a> (likelihood-ratio attack) against '
        '<a class="term" href="glossary.html#dp-sgd">DP-SGD</a>, <code>LiRA</code> and '
        '<a class="term" href="glossary.html#differential-privacy-dp">DP</a> (differential '
        'privacy) with a <a class="term" href="glossary.html#clip">clip</a> &lt;x&gt;</p>'
    )
    again = "<p>LiRA, differential privacy, a clip; eclipse and DP-SGDs</p>"
    assert terms.explain(again) == again
    assert exporter.Terms().explain(again) == again


def test_every_term_link_has_its_place_in_the_glossary():
    text = (REPOSITORY / "docs" / "glossary.md").read_text()
    page = exporter.prose(text, lambda _: None, terms=True).html
    places = {tag["id"] for tag in BeautifulSoup(page, "html5lib").select("p[id]")}
    assert {anchor for anchor, _ in exporter.Terms(text).words.values()} <= places
    words = (exporter.TEMPLATES / "macros.j2").read_text()
    assert set(re.findall(r'term\("[^"]+", "([^"]+)"', words)) <= places


def test_without_a_glossary_nothing_links_to_it(built, tmp_path):
    shutil.copytree(built[0].root, tmp_path / "copy")
    ws = type(built[0])(tmp_path / "copy")
    (ws.root / "docs" / "glossary.md").unlink()
    written = report.build_index(ws)
    assert "glossary.html" not in {p.name for p in written}
    assert not (ws.reports / "glossary.html").exists()
    assert "glossary" not in (ws.reports / "index.html").read_text()


def test_scorecard_lists_every_cell_under_its_table(built):
    ws, _ = built
    page = soup(ws.reports / "scorecard.html")
    assert page.find(id="table-2-4")
    assert len(page.select("tr.cell")) == len(scorecard.from_runs(ws)) == 8
    assert page.select_one("tbody th")["data-label"] == "Where"
    anchors = [row["id"] for row in page.select("tr.cell")]
    assert anchors == [row.a["href"][1:] for row in page.select("tr.cell")]
    assert "at-2-4-error-rate-0-2-threshold-0-5-method-naive-recall-actual" in anchors
    counts = [" ".join(p.text.split()) for p in page.select(".head .eyebrow")]
    assert counts[0].startswith("as described 2 reproduced, 1 differs, 1 undecided · report")
    assert counts[1].startswith("as described 4 not run")
    assert [i["id"] for i in page.select(".filter input")] == [
        *("only-any", "only-reproduced", "only-differs", "only-undecided", "only-not-run"),
    ]
    words = page.select_one(".strip")["aria-label"]
    assert words.startswith("Ours less printed, in margins: 3 of 4 values lie within one margin")


def test_a_strip_shows_gaps_in_margins_and_cuts_what_lies_far_out():
    frame = scorecard.read(REPOSITORY / "reports" / "scorecard.csv").head(3)
    frame = frame.assign(published=["1.0", "1.0", "2"], margin=[0.1, 0.1, 0.0])
    frame = frame.assign(ours=[1.05, 9.0, 2.0], se=[0.01, 0.0, float("nan")])
    marks = pages._strip(frame)["marks"]
    assert [round(x, 3) for x in marks[0]["at"]] == [0.5, 0.304, 0.696]
    assert [(m["at"][0], m["beyond"]) for m in marks[1:]] == [(4, True), (0, False)]
    (odd,) = pages._strip(frame.assign(ours=2.001).tail(1))["marks"]  # exact, and not equal
    assert odd["beyond"]


def test_one_refused_report_costs_no_other(built, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(built[0].root, root)
    ws = type(built[0])(root)
    content = demo.notebook("DP training or DP data?")
    content.cells[7].outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=f"read {root}/data.csv")
    ]
    demo.add_run(ws, "private_ml/training", content, demo.rows_of(0.2, 8))
    with pytest.raises(
        report.RefusedReports, match=r"private_ml/training: .*local path .* in cell 8"
    ) as e:
        report.build(ws)
    assert list(e.value.reasons) == ["private_ml/training"]
    assert str(root) not in str(e.value)
    assert not (ws.reports / "private_ml-training.html").exists()
    assert (ws.reports / "psi-typos.html").exists()
    failures = soup(ws.reports / "failures.html").text
    assert "in cell 8" in failures
    assert str(root) not in failures


def test_out_of_date_runs_say_so(built, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(built[0].root, root)
    ws = type(built[0])(root)
    source = ws.notebooks / "psi" / "typos.ipynb"
    source.write_text(source.read_text().replace("simulate(", "simulate_all("))
    report.build(ws, ["typos"])
    assert soup(ws.reports / "psi-typos.html").select_one(".notice").text.startswith("Out of date")


def test_writing_is_atomic(built, tmp_path, monkeypatch):
    ws, _ = built
    target = tmp_path / "page.html"
    target.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        pages._write(ws, target, "<!doctype html><title>new</title>")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_no_runs_at_all(tmp_path):
    (tmp_path / "notebooks").mkdir()
    demo.save(tmp_path / "notebooks" / "alone.ipynb", demo.notebook("Alone"))
    from pet_lab.workbench.workspace import Workspace

    written = report.build(Workspace(tmp_path))
    assert [p.name for p in written] == ["index.html", "scorecard.html", "failures.html"]
    assert "Not run yet" in soup(written[0]).text


def test_the_named_profile_is_shown(built):
    ws, _ = built
    done, name, stale = pages.chosen_runs(ws, "psi/typos")
    assert (len(done), name, stale) == (3, "quick", False)  # full has two runs to go
    assert done[0].parameters["error_rate"] == 0.2  # the first of the grid, as planned
    assert len(pages.chosen_runs(ws, "psi/typos", "full")[0]) == 3


# --- markdown ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a $x_1$ b", 1),
        ("$$\\frac{a}{b}$$", 1),
        ("\\begin{align}a &= b\\end{align}", 1),
        ("`$x$` and `$y$`", 0),
        ("```\n$x$ and $y$\n```", 0),
        ("costs $5 or $6", 0),
        ("between \\$x and y\\$", 0),
        ("| a | b |\n|---|---|\n| $x$ | $y$ |", 2),
        ("$a$, $b$ and $c$", 3),
        ("**bold $x$**", 1),
    ],
)
def test_mathematics(text, expected):
    assert exporter.markdown(text).count("<math ") == expected


def test_a_formula_that_cannot_be_read_stays_as_written():
    assert exporter.mathml(r"\frac{a}") in (
        "<code>\\frac{a}</code>",
    ) or "<math" in exporter.mathml(r"\frac{a}")


def test_mathematics_carries_its_source_as_words():
    assert 'alttext="x &lt; y"' in exporter.mathml("x < y")


def test_headings_start_at_two_and_skip_nothing():
    content = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Title\n\nwords"),
            nbformat.v4.new_markdown_cell("# Again\n\n#### Deep\n\n## Data\n\n## Data"),
        ]
    )
    body = exporter.export(content, link=lambda _: None)
    headings = [
        (h.name, h["id"]) for h in BeautifulSoup(body.html, "html.parser").select("h2,h3,h4")
    ]
    assert headings == [("h2", "again"), ("h3", "deep"), ("h2", "data"), ("h2", "data-2")]
    assert [anchor for anchor, _ in body.contents] == ["again", "data", "data-2"]


def output_cell(**data):
    outputs = [nbformat.v4.new_output("display_data", data=data)]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])


def test_a_picture_without_words_is_refused():
    with pytest.raises(report.GuardError, match="picture of cell 1 has no words"):
        exporter.export(output_cell(**{"image/png": "aGk="}), link=lambda _: None)


def test_widgets_and_scripts_are_dropped():
    for mime in (exporter.INTERACTIVE, "application/javascript"):
        content = output_cell(**{mime: "x", "text/plain": "VBox(children=...)"})
        assert "VBox" not in exporter.export(content, link=lambda _: None).html


def test_the_rows_that_write_returns_are_not_shown():
    content = output_cell(
        **{"text/html": "<table class='dataframe'></table>", "text/plain": "rows"}
    )
    content.cells[0].source = "results.write(rows, out, headline='It holds.')"
    content.cells[0].outputs[0].output_type = "execute_result"
    assert "<table" not in exporter.export(content, link=lambda _: None).html


@pytest.mark.parametrize("opened", ["<b>x", "<div><i>x", "<table><tr><td>x", "<p>x<!--", "<b"])
def test_what_an_output_leaves_open_ends_with_it(opened):
    content = output_cell(**{"text/html": opened})
    content.cells.append(nbformat.v4.new_markdown_cell("And *after* it."))
    tree = BeautifulSoup(exporter.export(content, link=lambda _: None).html, "html5lib")
    (after,) = [em for em in tree.select("em") if em.text == "after"]
    assert not after.find_parent(["b", "i", "table", "td"])
    assert not after.find_parent(class_="output")


def test_an_error_output_is_refused():
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[])
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[error])])
    with pytest.raises(report.GuardError, match="cell 1 ended with ValueError"):
        exporter.export(content, link=lambda _: None)


# --- the guard ---------------------------------------------------------------------------------

P = 2**521 - 1


def svg(text):
    return "data:image/svg+xml;base64," + base64.b64encode(f"<svg>{text}</svg>".encode()).decode()


def csv_uri(text):
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("html", "what"),
    [
        ('<table border="1" class="dataframe"><tr><td>1</td></tr></table>', "what its rows are"),
        ("<table><tr><td>1</td></tr></table>", "what its rows are"),
        (
            "<pre class=out>   id  age  sex\n0  a  1  F\n1  b  2  M\n2  c  3  F\n3  d  4  M</pre>",
            "rec",
        ),
        ("<pre class=out>The first is {'age': 34, 'sex': 'F'}, it says.</pre>", "rec"),
        ("<pre class=out>It is (34, 'F', 'Delft') here.</pre>", "rec"),
        ("<pre class=out>Incomes are [34000 52000 61000] here.</pre>", "rec"),
        ("<pre class=out>It is Person(age=34, sex='F', town='Delft') here.</pre>", "rec"),
        ("<pre class=out>So &lt;age>34&lt;/age> &lt;sex>F&lt;/sex> it says here.</pre>", "rec"),
        ("<ul><li>Delft</li></ul>", "an output of an unknown kind <ul>"),
        ("<details class=more>Delft</details>", "an output of an unknown kind <details>"),
        ("<svg><text>Delft</text></svg>", "an output of an unknown kind <svg>"),
        ("<p>-----BEGIN RSA PRIVATE KEY-----</p>", "a private key"),
        ("<p>-----BEGIN PRIVATE KEY-----</p>", "a private key"),
        (f"<pre>p = {P}</pre>", "more than 256 bits"),
        (f"<pre><span>q</span> = <span>{P:x}</span></pre>", "more than 256 bits"),
        ("<p>token: ghp_abcdefghij0123456789abcdefghij012345</p>", "an access token"),
        ("<p>secret_key = 'a8f5f167f44f4964e6c998dee827110c'</p>", "called by its name"),
        ("<p>read /home/anna/data.csv</p>", "local path '/home/anna/data.csv'"),
        ("<p>in /tmp/tmpabc/x</p>", "local path '/tmp/tmpabc/x'"),
        ("<p>C:\\Users\\anna\\x.csv</p>", "local path"),
        ("<p>file:///etc/x</p>", "local path"),
        ('<p title="/Users/anna/x">x</p>', "local path"),
        (f'<img alt="long words" src="{svg("<!-- /home/anna/x -->")}">', "local path"),
        ("<pre>Traceback (most recent call last):</pre>", "a traceback"),
        ("<script>1</script>", "element <script>"),
        ('<img alt="long words" src="https://example.org/a.png">', "a request by src"),
        ('<img alt="long words" src="a.png">', "a request by src"),
        ('<img src="data:image/png;base64,aGk=">', "without words"),
        ('<img alt="w" src="data:image/png;base64,aGk=" srcset="b.png 2x">', "by srcset"),
        ('<link rel="stylesheet" href="https://example.org/a.css">', "element <link>"),
        ("<style>@import 'a.css'</style>", "a style that loads"),
        ('<p style="background:url(https://example.org/a)">x</p>', "a style that loads"),
        ('<a href="javascript:alert(1)">x</a>', "a link to"),
        ('<p onclick="x()">x</p>', "event handler onclick"),
        ('<iframe src="https://example.org"></iframe>', "element <iframe>"),
        ('<meta http-equiv="refresh" content="0">', "reloads"),
        ('<svg><use href="https://example.org/a#b"/></svg>', "a link to"),
        (f'<p><a href="{csv_uri("a,b")}">x</a></p>', "a link to"),
        ('<p><a download="x" href="data:text/html;base64,aGk=">x</a></p>', "a link to"),
        ('<p><a download="x" href="https://example.org/x.csv">x</a></p>', "a link to"),
        (f'<p><a download="x" href="{svg("<script>1</script>")}">x</a></p>', "a link to"),
        (f'<p><a download="x" href="{svg("<g onload=x()/>")}">x</a></p>', "a link to"),
        (f'<p><a download="x" href="{csv_uri("a,/home/anna/x.csv")}">x</a></p>', "local path"),
    ],
)
def test_guard_refuses(html, what):
    page = f'<section id="cell-4"><div class="output">{html}</div></section>'
    with pytest.raises(report.GuardError) as refused:
        report.guard(page)
    assert what in str(refused.value)
    assert "in cell 4" in str(refused.value)


@pytest.mark.parametrize(
    "html",
    [
        f"<p>SHA-256 {'ab' * 32}</p>",
        "<p>commit 0123456</p>",
        '<a href="https://example.org/home/x">a citation of https://example.org/home/x</a>',
        "<p>the root mean square, a token of trust, the password policy: long and unguessable</p>",
        "<pre class=out>0.81\n0.83\n600 rows</pre>",
        "<pre class=out>1  one line  of a list  here\n5  another  one  there</pre>",
        '<div class="pl-table"><table data-pet-lab="aggregate"><caption>Means</caption>'
        "<tr><td>1</td></tr></table></div>",
        '<table class="scorecard"><tr><td>1</td></tr></table>',
        "<p>epsilon = 0.30000000000000004 and 1e-05</p>",
        "<p>a ratio of 3/4, and/or, 10/home</p>",
    ],
)
def test_guard_lets_honest_pages_pass(html):
    inner = html if "class" in html else f'<div class="prose">{html}</div>'
    report.guard(f'<section id="cell-4"><div class="output">{inner}</div></section>')


# --- what holds data is no markup --------------------------------------------------------------

HOSTILE = [
    "<textarea>",
    "<plaintext>",
    "<script>",
    "<style>",
    "<!--",
    "<div",
    "<b>x",
    "<xmp><img src=x>",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_that_holds_data_is_markup(make_workspace, hostile):
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny", {"label": hostile})
    (record,) = sweep.execute(ws, [spec], jobs=1)
    path = record.folder / "summary.json"
    data = {"name": hostile, "sha256": hostile, "kind": "stand-in", "licence": hostile}
    summary = results.summary(record) | {"headline": f"It holds {hostile}", "privacy": [hostile]}
    files.write_json(path, summary | {"data": [data | {"citation": hostile}]})
    content = nbformat.read(record.folder / runs.NOTEBOOK, as_version=4)
    with demo.captured() as outputs:
        frame = demo.rows_of(0.2, 1, replicates=2).head(2).assign(**{hostile: hostile})
        plots.table(frame, caption=f"Means {hostile}")
    claims = {"text/markdown": f"* It is {hostile} here.", "text/plain": hostile}
    outputs.append(nbformat.v4.new_output("display_data", data=claims))
    outputs.append(nbformat.v4.new_output("stream", name="stdout", text=f"{hostile}\n"))
    words = {"alt": f"alt {hostile}", "caption": f"Figure {hostile}"}
    picture = {"image/png": "aGk="}
    outputs.append(
        nbformat.v4.new_output("display_data", data=picture, metadata={"image/png": words})
    )
    content.cells.append(nbformat.v4.new_code_cell("show()", outputs=outputs))
    nbformat.write(content, record.folder / runs.NOTEBOOK)
    page = soup(report.build_run(ws, record))
    assert page.select("body > footer")
    assert "stand-in" in page.select_one("main .notice").text
    places = (
        ".headline",
        ".assure li",
        ".output td",
        ".output th[scope=col]",
        "figcaption",
        ".output caption",
        ".output li",
        "pre.out",
        "#provenance ~ dl dd",
    )
    for place in places:
        assert any(hostile in " ".join(t.text.split()) for t in page.select(place)), place
    assert hostile in page.select_one("figure img")["alt"]
    assert not page.select("main textarea, main plaintext, main script, main style, main xmp")


@pytest.mark.parametrize("opened", ["<textarea>", "<plaintext>", "<!-- ", "<style>", "<title>"])
def test_a_page_whose_end_is_swallowed_is_refused(built, opened):
    html = (built[0].reports / "psi-typos.html").read_text()
    with pytest.raises(report.GuardError, match=r"swallows|element"):
        report.guard(html.replace('<section aria-labelledby="provenance">', opened))


# --- the sieve ---------------------------------------------------------------------------------


def cell(*inner):
    return f'<section id="cell-4"><div class="output">{"".join(inner)}</div></section>'


def pre(text):
    return cell(f'<pre class="out">{escape(text)}</pre>')


def records(rng, rows):
    import pandas as pd

    return pd.DataFrame(
        {
            "age": rng.integers(15, 90, rows),
            "sex": rng.choice(["F", "M"], rows),
            "school": rng.choice(["GP", "MS"], rows),
            "income": rng.integers(20_000, 99_000, rows),
            "town": rng.choice(["Delft", "Leiden", "Gouda", "Breda"], rows),
        }
    )


def disclosures(rng):
    """(page, hashes of the loaded records or None) of outputs that no report may show."""
    for _ in range(12):
        frame = records(rng, 40)
        some, known = (
            frame.sample(5, random_state=int(rng.integers(1e6))),
            results.row_hashes(frame),
        )
        lists = some.to_dict("records")
        with demo.captured() as shown:
            plots.table(some, caption="Means of the groups")
            plots.table(some[["school", "income", "town"]], caption="Means of the groups")
            plots.table(some.head(1), caption="One of them")
        for output in shown:
            yield cell(output.data["text/html"]), known
        yield pre("The last one is " + " ".join(map(str, lists[0].values())) + " here."), known
        yield cell(some.to_html()), None
        yield cell(some.style.to_html()), None
        one = lists[0]
        for text in (
            some.to_string(), some.to_string(index=False), some.to_csv(), some.to_csv(sep=";"),
            some.to_csv(sep="\t", index=False), some.to_json(orient="records"), str(lists),
            str(one),
            json.dumps(lists, indent=1), str(some.to_numpy()),
            str(some.to_numpy().tolist()),
            str(next(some.itertuples())), some.iloc[0].to_string(), some["income"].to_string(),
            "\n".join(map(str, some["income"])),
            "\n".join("|".join(map(str, r.values())) for r in lists),
            some.to_xml(index=False, parser="etree"), ",".join(map(str, one.values())),
        ):  # fmt: skip
            yield pre(text), None
        key = rng.bytes(32)
        for text in (
            key[:16].hex(), key.hex(), "0x" + key[:24].hex(), base64.b64encode(key).decode(),
            base64.urlsafe_b64encode(key[:24]).decode(), str(int.from_bytes(key)),
            key[:20].hex(":"),
            f"-----BEGIN EC PARAMETERS-----\n{base64.b64encode(key).decode()}",
        ):  # fmt: skip
            yield cell(f'<div class="prose"><p>It is {escape(text)}</p></div>'), None
        name = "".join(rng.choice(list("abcdefgh"), 6))
        for root in ("/mnt/", "/srv/data/", "/data/", "/opt/app/", "/workspace/",
                     "~/", "~anna/",
                     "D:\\data\\", "c:/data/",
                     "\\\\server\\share\\", "//nas/share/", "/"):  # fmt: skip
            yield cell(f'<div class="prose"><p>read {root}{name}.csv</p></div>'), None


def honest(rng):
    """Pages of outputs as notebooks make them, with the hashes of records they do not show."""
    for number in range(30):
        known = results.row_hashes(records(rng, 40))
        mean, se = rng.random(2)
        frame = records(rng, 400).groupby(["town", "sex"])["income"].agg(["mean", "std", "count"])
        with demo.captured() as shown:
            plots.table(frame, caption="Income by town, sex and year (mean, sd, n).", index=True)
        yield cell(shown[0].data["text/html"]), known
        sentences = [
            f"At n = {10**i:,} recall is {mean:.2f} ± {se:.3f}, against {i}% (ε = {i}) in clear."
            for i in range(1, 5)
        ]
        claims = "\n".join(f"* {sentence}" for sentence in sentences)
        yield (
            cell(f'<div class="prose">{exporter.from_rows(claims)}</div>'),
            known,
        )
        yield pre(f"{number + 2:,} rows"), known
        yield (
            pre(f"At {mean:.0%} of the records the count is off by {se:.2f} (paragraph 23)."),
            known,
        )
        caption = (
            f"Recall, precision and accuracy (a, b and c) for a/b tests; n={number}, ε=1, δ=1e-05."
        )
        yield (
            cell(
                f'<figure><img alt="Lines" src="data:image/png;base64,aGk=">'
                f"<figcaption>{caption}</figcaption></figure>"
            ),
            known,
        )


def test_the_guard_is_no_sieve(capsys):
    rng = np.random.default_rng(1)
    bad, good = list(disclosures(rng)), list(honest(rng))
    missed = [page for page, rows in bad if not report.objections(page, rows=rows)]
    alarms = [(page, why) for page, rows in good if (why := report.objections(page, rows=rows))]
    with capsys.disabled():
        print(f"\ncaught {len(bad) - len(missed)} of {len(bad)} disclosures")
        print(f"false alarms on {len(alarms)} of {len(good)} honest pages")
    assert len(bad) >= 300
    assert len(good) >= 150
    assert len(missed) <= 0.01 * len(bad), missed[:5]
    assert len(alarms) <= 0.02 * len(good), alarms[:5]


def test_records_of_two_columns_have_no_hashes():
    known = results.row_hashes(records(np.random.default_rng(1), 3)[["age", "sex"]])
    assert known["rows"] == []


def test_a_report_that_shows_a_loaded_record_is_refused(make_workspace):
    ws = make_workspace()
    (record,) = sweep.execute(ws, sweep.plan(ws, "tiny", {}), jobs=1)
    frame = records(np.random.default_rng(1), 40)
    summary = results.summary(record) | {"guard_rows": results.row_hashes(frame)}
    files.write_json(record.folder / "summary.json", summary)
    with demo.captured() as outputs:
        plots.table(frame.head(1), caption="Means")
    content = nbformat.read(record.folder / runs.NOTEBOOK, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell("show()", outputs=outputs))
    nbformat.write(content, record.folder / runs.NOTEBOOK)
    with pytest.raises(report.RefusedReports, match="a record of the data that was read"):
        report.build_run(ws, record)


def test_a_record_in_a_download_is_found():
    frame = records(np.random.default_rng(1), 40)
    link = f'<p class="prose"><a download="x.csv" href="{csv_uri(frame.to_csv())}">CSV</a></p>'
    page = f'<section id="cell-4"><div class="output">{link}</div></section>'
    report.guard(page)
    with pytest.raises(report.GuardError, match="a record of the data that was read in cell 4"):
        report.guard(page, rows=results.row_hashes(frame))


def test_guard_knows_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "tulips-and-roses")
    against = report.objections(f"<p>{tmp_path}/x tulips-and-roses</p>", root=tmp_path)
    assert {f.what.partition(" '")[0] for f in against} == {
        "the local path",
        "the value of a secret environment variable",
    }
    monkeypatch.setattr("platform.node", lambda: "build-7.example")
    assert report.objections("<p>ran on build-7.example</p>")
    assert report.objections("<p>ran on build-7 of this</p>") == []


def test_tables_of_the_house_pass_the_guard():
    with demo.captured() as outputs:
        frame = demo.rows_of(0.2, 1, replicates=2).head(8)
        plots.table(frame, caption="Made up", kind="synthetic")
    report.guard(f'<div class="output">{outputs[0].data["text/html"]}</div>')


def test_sanitise():
    text = "no /home/anna/x.csv and C:\\Users\\anna\\y\nTraceback"
    assert report.sanitise(text) == "no … and …"
    assert len(report.sanitise("x" * 1000)) == 300


def test_failed_runs_get_no_report(built):
    ws, _ = built
    assert any(r.state == runs.FAILED for r in runs.records(ws, "psi/protocol"))
    with contextlib.suppress(FileNotFoundError):
        assert not (ws.reports / "psi-protocol.html").read_text()


def test_one_run_of_ones_own_gets_a_page_without_the_folder_of_its_data(make_workspace):
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny", {"label": "/home/someone/private/mine.csv"})
    (record,) = sweep.execute(ws, [spec], jobs=1)
    page = report.build_run(ws, record)
    html = page.read_text()
    assert page.name == f"group-tiny-{record.run_id}.html"
    assert "mine.csv" in html
    assert "/home/someone" not in html

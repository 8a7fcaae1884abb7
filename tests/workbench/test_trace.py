"""Every number in a text has a source, and one that is changed by a digit is noticed."""

import dataclasses
import functools
import json
import random
from unittest import mock

import demo
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from pet_lab import cli
from pet_lab.rows import Claim
from pet_lab.workbench import (
    evidence,
    notebooks,
    plots,
    published,
    report,
    results,
    runs,
    scorecard,
    trace,
)
from pet_lab.workbench.workspace import Workspace

WS = Workspace.find(__file__)
NAMES = (*notebooks.find(WS), *trace.DOCUMENTS)
SEED, MUTATIONS = 13, 200

# --- a workspace with one run ------------------------------------------------------------------

PARAMETERS = """\
budget: float = 2.5  # a factor
replicates: int = 40  # of each method
seed: int = 7  # root of every random stream
out: str = ""  # run folder; empty when exploring by hand
"""
CELLS = [
    "plots.points(rows, x='method', metric='accuracy',\n"
    "    caption=f'Means over {replicates} runs at epsilon {budget:g}, with 95 % intervals.',\n"
    "    alt=f'Two points at epsilon {budget:g}.')",
    "plots.table(rows, caption=Claim('The best of 2 methods reaches {best:.1%}.', best=best))",
    "results.takeaways(claims)",
]
DECLARED = """\
[tiny]
definition = ['95 % intervals', 'best of 2 methods', 'a third of 12 months']
reference = ['Table 3.4 of the report']
"""


def tiny_rows():
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {"method": m, "replicate": r, "metric": "accuracy", "value": v + rng.normal(0, 0.01)}
        for m, v in (("stump", 0.912), ("network", 0.847))
        for r in range(40)
    )


def tiny_claims(rows):
    means = rows.groupby("method")["value"].mean()
    values = {"stump": means["stump"], "network": means["network"], "budget": 2.5}
    return [
        Claim("At epsilon {budget:g} a stump reaches {stump:.1%}.", **values),
        Claim("It gains {gain:.3f} over {network:.3f}, by the rule of a third of 12 months.",
              gain=values["stump"] - values["network"], **values),
        Claim("Nothing is known of {missing:.2f}.", missing=float("nan")),
    ]  # fmt: skip


def taken_away(claims):
    """The output that `results.takeaways` leaves in a cell."""
    with mock.patch("IPython.display.display") as shown:
        results.takeaways(claims)
    (text,), metadata = shown.call_args.args, shown.call_args.kwargs["metadata"]
    data = {"text/markdown": text.data}
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata)


@pytest.fixture
def tiny(tmp_path):
    """A workspace with one notebook and one finished run: figure, table, claims, headline."""
    ws = Workspace(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')
    rows, claims = tiny_rows(), tiny_claims(tiny_rows())
    with demo.captured() as figure:
        plots.points(
            rows,
            x="method",
            metric="accuracy",
            caption="Means over 40 runs at epsilon 2.5, with 95 % intervals.",
            alt="Two points at epsilon 2.5.",
        )
    with demo.captured() as table:
        best = Claim("The best of 2 methods reaches {best:.1%}.", best=claims[0].values["stump"])
        plots.table(rows.head(2), caption=best)
    kinds = [figure, table, [taken_away(claims)]]
    for outputs, path in ((None, ws.notebooks / "group" / "tiny.ipynb"), (kinds, None)):
        cells = [
            nbformat.v4.new_markdown_cell("# Tiny\n\n**Claim.** See Table 3.4 of the report."),
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *(
                nbformat.v4.new_code_cell(cell, outputs=outputs[i] if outputs else [])
                for i, cell in enumerate([*CELLS[:2], CELLS[2]])
            ),
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        if path:
            demo.save(path, content)
    (ws.notebooks / "group" / "numbers.toml").write_text(DECLARED)
    record = demo.add_run(ws, "group/tiny", content, rows, headline=claims[0])
    return ws, record


def test_what_a_run_shows_comes_from_its_rows_parameters_and_declarations(tiny):
    ws, record = tiny
    assert trace.check_run(ws, record) == []
    shown = [t for o in outputs_of(record) for t in trace.shown_texts(o)]
    assert len(shown) == 4, "caption and words of the figure, caption of the table, claims"


def outputs_of(record):
    return [o for c in notebooks.read(record.folder / runs.NOTEBOOK)["cells"]
            for o in c.get("outputs", ())]  # fmt: skip


# --- the committed texts -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_committed_texts_is_accounted_for(name):
    assert trace.check(WS, name) == [], "make it a claim, or declare it in numbers.toml"


def changed(numeral, rng):
    """The numeral with one digit exchanged for another."""
    place = rng.choice([i for i, c in enumerate(numeral) if c.isdigit()])
    digits = "⁰¹²³⁴⁵⁶⁷⁸⁹" if numeral[place] in "⁰¹²³⁴⁵⁶⁷⁸⁹" else "0123456789"
    other = rng.choice([d for d in digits if d != numeral[place]])
    return numeral[:place] + other + numeral[place + 1 :]


def numerals(texts):
    """(index of the text, span) of each numeral."""
    return [(i, m.span()) for i, t in enumerate(texts) for m in trace.NUMERAL.finditer(t)]


def test_changed_numbers_in_committed_texts_are_caught(monkeypatch):
    """A digit of a number in prose, a caption, a claim's sentence or the README is exchanged."""
    rng = random.Random(SEED)
    found = {name: list(trace.texts(WS, name)) for name in NAMES}
    places = [(name, *at) for name in NAMES for at in numerals([t for _, t in found[name]])]
    missed = []
    monkeypatch.setattr(published, "named", functools.cache(published.named))  # for speed alone
    monkeypatch.setattr(evidence, "generated", functools.cache(evidence.generated))
    for name, index, (start, end) in rng.sample(places, MUTATIONS):
        place, text = found[name][index]
        wrong = text[:start] + changed(text[start:end], rng) + text[end:]
        texts = [*found[name][:index], (place, wrong), *found[name][index + 1 :]]
        with mock.patch.object(trace, "texts", return_value=texts):
            if not trace.check(WS, name):
                missed.append((place, wrong[max(0, start - 30) : end + 30]))
    assert len(missed) <= MUTATIONS // 200, missed


def test_every_changed_number_that_a_run_shows_is_caught(tiny):
    """All of them, five times each: captions, words of pictures, claims, headline."""
    ws, record = tiny
    rng = random.Random(SEED)
    file = record.folder / runs.NOTEBOOK
    whole, caught = file.read_text(), 0
    for text in {t for o in outputs_of(record) for t in trace.shown_texts(o)}:
        for _, (start, end) in numerals([text]) * 5:
            wrong = text[:start] + changed(text[start:end], rng) + text[end:]
            content = json.loads(whole)
            for output in (o for c in content["cells"] for o in c.get("outputs", ())):
                swap(output, text, wrong)
            file.write_text(json.dumps(content))
            assert trace.check_run(ws, record), wrong
            caught += 1
    file.write_text(whole)
    summary = json.loads((record.folder / runs.SUMMARY).read_text())
    for _, (start, end) in numerals([summary["headline"]]) * 5:
        line = summary["headline"]
        wrong = line[:start] + changed(line[start:end], rng) + line[end:]
        (record.folder / runs.SUMMARY).write_text(json.dumps(summary | {"headline": wrong}))
        assert trace.check_run(ws, record), wrong
        caught += 1
    assert caught >= 50


def swap(output, text, wrong):
    """Change a shown text, not the template and values that its claim carries."""
    for data in [output["data"], *[v for v in output["metadata"].values() if isinstance(v, dict)]]:
        for key, value in data.items():
            words = "".join(value) if isinstance(value, list) else value
            if isinstance(words, str) and key != "image/svg+xml":
                data[key] = words.replace(text, wrong)


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("'95 % intervals', ", "", "with 95 % intervals."),
        ("Table 3.4 of", "Table 3.5 of", "declared, but no longer there: Table 3.5 of the report"),
        ("reference = [", "printed.'3.4' = ['Table 3.4 of'", "printed 3.4 holds no 3.4"),
    ],
)
def test_a_declaration_and_its_text_are_held_to_each_other(tiny, before, after, fault):
    ws, _ = tiny
    assert trace.check(ws, "group/tiny") == ["group/tiny: declared, but no longer there: a third"
        " of 12 months"]  # fmt: skip
    file = ws.notebooks / "group" / "numbers.toml"
    file.write_text(DECLARED.replace(before, after).replace("'Table 3.4 of'", "'Table 3.4 of', "))
    assert any(fault in line for line in trace.check(ws, "group/tiny"))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("guess = ['about 3']", "'guess' is none of definition"),
        ("definition = ['3']", "needs a numeral and a word"),
        ("definition = ['about three']", "needs a numeral and a word"),
        ("definition = [", "not valid TOML"),
    ],
)
def test_a_list_that_declares_nothing_is_refused(tiny, section, sentence):
    ws, _ = tiny
    (ws.notebooks / "group" / "numbers.toml").write_text(f"[tiny]\n{section}\n")
    with pytest.raises(trace.TraceError, match=sentence):
        trace.declared(ws, "group/tiny")


def test_a_caption_computed_from_anything_but_parameters_needs_a_claim(tiny):
    ws, record = tiny
    file = record.folder / runs.NOTEBOOK
    file.write_text(file.read_text().replace("{replicates}", "{len(rows)}"))
    assert any("Means over 40 runs" in fault or "over 40" in fault
               for fault in trace.check_run(ws, record))  # fmt: skip


def test_the_command_lists_what_it_finds_and_fails(tiny, monkeypatch, capsys):
    ws, _ = tiny
    monkeypatch.setenv("PET_LAB_HOME", str(ws.root))
    (ws.notebooks / "group" / "numbers.toml").write_text(DECLARED.replace("'95 % intervals', ", ""))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["trace", "tiny"])
    assert stopped.value.code == 1
    assert "with 95 % intervals." in capsys.readouterr().out


def test_the_kept_summary_of_a_run_is_means_by_metric_and_factor(tiny):
    ws, record = tiny
    evidence.write_summary(ws, [record])
    summary = pd.read_csv(ws.reports / "rows" / "group-tiny.csv")
    assert summary.columns.tolist() == ["metric", "method", "mean", "se", "n"]
    want = tiny_rows().groupby("method")["value"].mean()
    got = summary.set_index("method")["mean"]
    assert got["stump"] == pytest.approx(want["stump"], rel=1e-5)
    assert summary["n"].tolist() == [40, 40]


def test_commit_day_and_cost_of_full_runs_are_kept_and_said(tiny):
    ws, record = tiny
    assert evidence.full_sentence(ws) == "No full run is kept."
    ran = {"wall_s": 9.0, "cpu_s": 61.0}
    for name, commit, day in (("a/b", "1e34567", "2026-02-03"), ("a/c", "f", "2026-02-01")):
        how = {"notebook": name, "git": {"commit": commit}, "ended": f"{day}T01:00", **ran}
        evidence.write_summary(ws, [dataclasses.replace(record, **how)])
    assert evidence.full_sentence(ws) == (
        "Full runs of 2 notebooks, 2026-02-01 to 2026-02-03, at 1e34567, f: 2 minutes of CPU."
    )
    evidence.write_summary(
        ws, [dataclasses.replace(record, **how | {"ended": "2026-02-03", "git": {}})]
    )
    assert evidence.full_sentence(ws) == (
        "Full runs of 2 notebooks, 2026-02-03, at 1e34567, unknown: 2 minutes of CPU."
    )


def test_prose_may_quote_the_kept_summary_of_a_full_run(tiny):
    ws, record = tiny
    evidence.write_summary(ws, [record])
    best = f"{tiny_rows().groupby('method')['value'].mean()['stump']:.3f}"
    for number, holds in ((best, True), ("0.999", False)):
        phrase = trace.Phrase(f"a stump reaches {number}", "rows", "accuracy")
        with (
            mock.patch.object(trace, "declared", return_value=[phrase]),
            mock.patch.object(trace, "texts", return_value=[("here", phrase.words)]),
        ):
            assert (trace.check(ws, "group/tiny") == []) == holds


def test_a_report_says_below_each_claim_where_its_numbers_come_from(tiny):
    ws, record = tiny
    page = BeautifulSoup(report.build_run(ws, record).read_text(), "html5lib")
    notes = page.select("details.numbers")
    assert len(notes) == 3, "headline, table, claims"
    assert {n.summary.get_text() for n in notes} == {"Where these numbers come from"}
    words = " ".join(notes[-1].get_text(" ").split())
    assert "2.5: the parameter budget" in words
    assert "mean of accuracy where method = stump (40 rows)" in words
    assert "gain, computed from the rows by the study" in words


# --- runs that do not count --------------------------------------------------------------------


@pytest.mark.parametrize("counts", [True, False])
def test_verdicts_and_printed_marks_appear_only_where_a_run_counts(counts):
    """The rows that `results.write` returns, what is chosen from them, and the rows given to it."""
    where = {"mechanism": "mst", "epsilon": 1, "reading": "published"}
    given = pd.DataFrame(
        {**where, "replicate": r, "metric": "accuracy.original", "value": 0.6} for r in range(3)
    )
    stored = results.write(given, "", headline="It holds.", counts=counts)
    printed = pd.DataFrame({"epsilon": [1], "printed": [0.5]})
    for rows in (given, stored, stored[stored["epsilon"] == 1].assign(way="mst")):
        verdicts = set(scorecard.score(rows, "3.3")["verdict"])
        assert (verdicts != {"not run"}) == counts
        _, axes = plots.figure()
        plots.points(rows, x="epsilon", metric="accuracy.original", printed=printed, ax=axes)
        marks = [c for c in axes.get_children() if "printed" in str(c.get_label())]
        assert bool(marks) == counts


def test_a_whole_number_is_not_ascribed_to_rows_that_hold_it_by_accident(tiny):
    _, record = tiny
    kept = pd.DataFrame({"metric": ["cells.withheld"], "mean": [6.0], "se": [0.0], "n": [1]})
    assert trace._origin("tables", 6, record, kept).endswith("computed from the rows by the study")
    assert trace._origin("cells", 6, record, kept) == "mean of cells.withheld (1 rows)"


@pytest.mark.parametrize("text", ["Over 40 runs; with marks.", "Over 40 runs."])
def test_a_caption_may_be_put_together_and_depend_on_a_condition(text):
    cell = "plots.table(rows, caption=f'Over {replicates} runs' + ('; with marks.' if a else '.'))"
    shown = [trace._made_from(text, t, {"replicates": 40}) for t in trace._captions(cell)]
    assert sum(shown) == 1
    wrong = text.replace("40", "41")
    assert not any(trace._made_from(wrong, t, {"replicates": 40}) for t in trace._captions(cell))

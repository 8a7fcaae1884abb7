"""The pages: one report per notebook, sweep pages, index, scorecard and failures."""

import functools
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import jinja2
import nbformat
import pandas as pd

from pet_lab import files
from pet_lab.workbench import notebooks, plots, published, results, runs, scorecard, sweep, trace
from pet_lab.workbench.errors import WorkbenchError
from pet_lab.workbench.report import exporter, sweeps
from pet_lab.workbench.report.guard import GuardError, guard, sanitise
from pet_lab.workbench.runs import RunRecord
from pet_lab.workbench.workspace import Workspace

PROFILES = ("full", "quick")
INDEX, SCORECARD, FAILURES = "index.html", "scorecard.html", "failures.html"
GLOSSARY = "glossary.html"
BROKEN = (runs.FAILED, runs.INTERRUPTED)
TRACKS = {
    "private_ml": "Private machine learning",
    "psi": "Private set intersection",
    "shared_computation": "Shared computation",
    "primers": "Primers: one technique each",
    "literature": "Literature: printed numbers of other publications",
}
REPORT = (  # whose numbers most of them are
    "UNECE IPP final report",
    "UNECE Project on Input Privacy Preservation: Final Report",
    "https://statswiki.unece.org/pages/viewpage.action?pageId=395313305",
)
NOTICES = {
    "stand-in": "Made from a synthetic stand-in, not from the real data: the method is the same, "
    "the numbers say nothing about the printed ones, and every cell counts as not run.",
    "own": "Made from data of your own: not comparable with the printed numbers, which count as "
    "not run.",
}
STRIP = 4  # margins to either side of the zero of a strip
PARTS = (("parameters-of-this-run", "Parameters"), ("provenance", "Provenance"))  # of any report
MOST_RUN_PAGES = 24  # written beside the page of a sweep; more of them on demand


class RefusedReports(WorkbenchError):
    """Some reports were refused; all others were written.

    written  paths of the pages that were written
    reasons  notebook -> why its report was refused
    """

    def __init__(self, written: Sequence[Path], reasons: Mapping[str, str]) -> None:
        self.written, self.reasons = list(written), dict(reasons)
        super().__init__("\n".join(f"{name}: {why}" for name, why in reasons.items()))


def page_name(notebook: str, *, sweep: bool = False, run: str = "") -> str:
    """File of a notebook's report: "psi/typos" -> "psi-typos.html", of one run with its id."""
    return notebook.replace("/", "-") + "-sweep" * sweep + f"-{run}" * bool(run) + ".html"


# --- building ----------------------------------------------------------------------------------


def build(
    ws: Workspace, names: Iterable[str] | None = None, profile: str | None = None
) -> list[Path]:
    """Write the reports of notebooks from their finished runs, and the pages that list them.

    Parameters
    ----------
    ws : Workspace
    names : notebooks (full names or unique last parts); default: all.
    profile : {"quick", "full"}, optional
        Whose runs to show; default, for each notebook: "full" if it ran, else "quick", else the
        latest run. A notebook without a finished run gets no report.

    Returns
    -------
    list of the paths written: reports, sweep pages, index, scorecard, failures.

    Raises
    ------
    RefusedReports
        After all others are written, if the guard refused a report.
    """
    known = notebooks.find(ws)
    chosen = known if names is None else [notebooks.resolve(ws, n) for n in names]
    written: list[Path] = []
    refused: dict[str, str] = {}
    public: dict[str, str] = {}  # what the guard says names no data; other errors might
    for name in chosen:
        for page in (_report, _sweep_page):
            target = ws.reports / page_name(name, sweep=page is _sweep_page)
            try:
                shown = chosen_runs(ws, name, profile)
                if html := page(ws, shown):
                    written.append(_write(ws, target, html, shown.summary.get("guard_rows")))
                else:
                    target.unlink(missing_ok=True)
            except OSError:
                raise
            except Exception as error:  # one bad notebook must not cost the others their report
                target.unlink(missing_ok=True)
                refused[name] = _reason(ws, error)
                guarded = isinstance(error, GuardError)
                public[name] = (
                    refused[name] if guarded else f"{type(error).__name__} in its report."
                )
    written += build_index(ws, profile=profile, refused=public)
    if refused:
        raise RefusedReports(written, refused)
    return written


def build_run(ws: Workspace, record: RunRecord) -> Path:
    """Write the report of one finished run, whatever its parameters; not listed in the index.

    RefusedReports if the guard refused it; then nothing is written.
    """
    target = ws.reports / page_name(record.notebook, run=record.run_id)
    stale = bool(runs.stale(record, runs.fingerprints(ws, record.notebook)))
    shown = Shown([record], "", stale)
    try:
        html = _report(ws, shown, target.name)
        return _write(ws, target, html, shown.summary.get("guard_rows"))
    except OSError:
        raise
    except Exception as error:
        raise RefusedReports([], {record.notebook: _reason(ws, error)}) from None


def build_sweep(ws: Workspace, records: Sequence[RunRecord]) -> Path | None:
    """Write the page of a sweep of one notebook, whatever its grid, and of its runs.

    A page of its own is written for each of at most `MOST_RUN_PAGES` finished runs that have none
    yet. Returns the path: of the profile's page where the grid is a profile's, of the run's own
    page where it is one run, None where no run is finished. RefusedReports as for `build`.
    """
    done = [r for r in records if r.ok]
    if not done:
        return None
    name, ids, refused = done[0].notebook, {r.run_id for r in records}, dict[str, str]()
    for record in done[:MOST_RUN_PAGES]:
        page = ws.reports / page_name(name, run=record.run_id)
        try:
            if not page.is_file() or page.stat().st_mtime < record.written:
                build_run(ws, record)
        except RefusedReports as error:
            refused[f"{name} {record.run_id}"] = error.reasons[name]
    if len(ids) == 1:
        if refused:
            raise RefusedReports([], refused)
        return page
    known = {p: {s.run_id for s in sweep.plan_profile(ws, name, p)} for p in PROFILES}
    profile = next((p for p in PROFILES if known[p] == ids), "")
    own = "" if profile else files.sha256(" ".join(sorted(ids)).encode())[:8]
    target = ws.reports / page_name(name, sweep=True, run=own)
    shown = Shown(done, profile, False)
    html = _sweep_page(ws, shown, target.name, records)
    _write(ws, target, html, shown.summary.get("guard_rows"))
    if refused:
        raise RefusedReports([target], refused)
    return target


def build_index(
    ws: Workspace, *, profile: str | None = None, refused: Mapping[str, str] | None = None
) -> list[Path]:
    """Write index, scorecard and failures from what lies in the run folders and in `reports/`.

    With them the glossary, where the workspace has `docs/glossary.md`.
    """
    scored = scorecard.from_runs(ws, profile)
    failures = _problems(ws, profile, refused or {})
    pages = {
        INDEX: _index(ws, scored, profile, failures=len(failures)),
        SCORECARD: _scorecard(ws, scored),
        FAILURES: render(ws, "failures.html.j2", FAILURES, failures=failures),
    }
    glossary = _glossary(ws)
    if glossary.is_file():
        text = glossary.read_text(encoding="utf-8")
        terms = exporter.prose(text, functools.partial(_link, ws, glossary), terms=True)
        pages[GLOSSARY] = render(
            ws, "glossary.html.j2", GLOSSARY, body=terms.html, toc=terms.contents
        )
    else:
        (ws.reports / GLOSSARY).unlink(missing_ok=True)
    return [_write(ws, ws.reports / name, html) for name, html in pages.items()]


def _glossary(ws: Workspace) -> Path:
    return ws.root / "docs" / "glossary.md"


def _write(ws: Workspace, target: Path, html: str, rows: Mapping[str, Any] | None = None) -> Path:
    guard(html, root=ws.root, rows=rows)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(target, html.encode())
    except OSError as error:
        raise OSError(error.errno, files.why(error, target.name)) from error
    return target


def _reason(ws: Workspace, error: Exception) -> str:
    text = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
    return sanitise(text, root=ws.root, limit=600)


@functools.lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(exporter.TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (exporter.TEMPLATES / "style.css").read_text(encoding="utf-8")
    environment.globals.update(style=style, version=runs.versions().get("pet-lab", ""))
    environment.filters.update(
        duration=files.duration,
        day=_day,
        value=_value,
        label=plots.label,
        slug=exporter.slug,
        inline=exporter.inline,
        numbers=exporter.numbers,
    )
    return environment


def _day(moment: str) -> str:
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return "–"
    return f"{at.day} {at:%B %Y}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return without_folder(value) if value != "" else "“”"


def without_folder(value: Any) -> str:
    """The value as text; of an absolute path only the name, where it lay is nobody's business."""
    text = str(value)
    absolute = text.startswith(("/", "~")) or PureWindowsPath(text).is_absolute()
    return PureWindowsPath(text).name if absolute else text


def render(ws: Workspace, template: str, here: str, **values: Any) -> str:
    """A page from its template, with the bar that links the pages of a folder of reports."""
    pages = [(INDEX, "Overview"), (SCORECARD, "Scorecard"), (FAILURES, "Failures")]
    if _glossary(ws).is_file():
        pages.append((GLOSSARY, "Glossary"))
    glossary = len(pages) > 3
    page = _templates().get_template(template)
    return page.render(**{"here": here, "pages": pages, "glossary": glossary} | values)


# --- which run a page shows --------------------------------------------------------------------


class Shown(NamedTuple):
    """The finished runs behind a page, in the order of their plan; the first one is its argument.

    profile  whose plan that is; "" for single runs
    stale    whether code, data or environment changed since
    """

    runs: list[RunRecord]
    profile: str
    stale: bool

    @property
    def folder(self) -> Path:
        """Where the first run lies."""
        return self.runs[0].folder

    @property
    def summary(self) -> dict[str, Any]:
        """What the first run stored beside its rows."""
        return results.summary(self.folder)

    @property
    def title(self) -> str:
        """Title of the notebook as it ran."""
        return notebooks.title(self.folder / runs.NOTEBOOK)

    @property
    def notices(self) -> list[str]:
        """Why its numbers are not to be taken for the real ones."""
        kinds = [item["kind"] for item in self.summary.get("data", ())]
        notices = [text for kind, text in NOTICES.items() if kind in kinds]
        if not (notices or self.summary.get("counts", True)):
            notices = [NOTICES["stand-in"]]  # generated signals, say
        if self.stale:
            notices.append("Out of date: the code, data or environment changed after this run.")
        return notices

    @property
    def varied(self) -> list[str]:
        """Parameters that differ between the runs."""
        return runs.varied(self.runs)


def chosen_runs(ws: Workspace, name: str, profile: str | None = None) -> Shown:
    """Of the profiles the first one that is complete counts, else the one with most runs done."""
    wanted = (profile,) if profile else PROFILES
    for stale in (False, True):
        done = {p: sweep.profile_runs(ws, name, p, stale=stale) for p in wanted}
        complete = [p for p in wanted if len(done[p]) == len(sweep.plan_profile(ws, name, p))]
        best = complete[0] if complete else max(wanted, key=lambda p: len(done[p]))
        if done[best]:
            return Shown(done[best], best, stale)
    if profile:
        return Shown([], profile, False)
    return Shown([r for r in runs.records(ws, name) if r.ok][-1:], "", False)


# --- one notebook ------------------------------------------------------------------------------


def _grouped(sentences: Iterable[str]) -> list[str]:
    """Guarantees, "budget (relation, accountant): assumptions": same assumptions are said once."""
    budgets: dict[str, list[str]] = {}
    for sentence in sentences:
        budget, sign, assumed = sentence.rpartition("): ")
        budgets.setdefault(assumed, []).extend([f"{budget})."] if sign else [])
    return [" ".join([*before, assumed]) for assumed, before in budgets.items()]


def _report(ws: Workspace, shown: Shown, here: str = "") -> str:
    """The report on the first of the runs, for the file `here`; empty if there is none."""
    if not shown.runs:
        return ""
    record = shown.runs[0]
    name, executed = record.notebook, shown.folder / runs.NOTEBOOK
    content = nbformat.read(executed, as_version=4)
    for output in (o for cell in content.cells for o in cell.get("outputs", ())):
        if claims := output.get("metadata", {}).get("claims"):
            output.metadata["sources"] = trace.sources(ws, record, claims)
    glossary = _glossary(ws)
    terms = exporter.Terms(glossary.read_text(encoding="utf-8") if glossary.is_file() else "")
    first_screen = {  # read before the body, so that terms are explained here
        "headline": terms.explain(exporter.inline(shown.summary["headline"])),
        "privacy": [terms.explain(exporter.inline(s)) for s in _grouped(shown.summary["privacy"])],
    }
    link = functools.partial(_link, ws, ws.notebooks / name)
    body = exporter.export(content, link=link, terms=terms)
    known = notebooks.parameters(executed)
    changed = {
        k: v for k, v in record.parameters.items() if k not in known or known[k].default != v
    }
    command = ["pet-lab", "run", name]
    for key, value in changed.items():
        text = json.dumps(value) if isinstance(value, list | bool) else without_folder(value)
        command += ["-p", f"{key}={text}"]
    return render(
        ws,
        "report.html.j2",
        here or page_name(name),
        shown=shown,
        record=record,
        summary=shown.summary | first_screen,
        printed=dict.fromkeys(
            t.source
            for t in published.load(ws)
            if t.notebook == name and shown.summary.get("counts", True)
        ),
        report=REPORT,
        sources=trace.sources(ws, record, shown.summary.get("claims", ())),
        track=track(name),
        body=body.html,
        toc=[*body.contents, *PARTS],
        known=known,
        changed=changed,
        command=shlex.join(command),
    )


def track(name: str) -> str:
    """Title of the group a notebook belongs to."""
    group = name.partition("/")[0] if "/" in name else ""
    return TRACKS.get(group, group.replace("_", " ").capitalize() or "Notebooks")


def _link(ws: Workspace, source: Path, target: str) -> str | None:
    """The report for a link in `source` to a notebook; nothing else lies beside a report."""
    path, _, anchor = target.partition("#")
    with suppress(ValueError):  # it leads out of the notebooks
        inside = (source.parent / path).resolve().relative_to(ws.notebooks)
        other = inside.with_suffix("").as_posix()
        if inside.suffix == ".ipynb" and other in notebooks.find(ws):
            return page_name(other) + (f"#{exporter.slug(anchor)}" if anchor else "")
    return None


# --- a sweep -----------------------------------------------------------------------------------


def _sweep_page(
    ws: Workspace, shown: Shown, here: str = "", records: Sequence[RunRecord] = ()
) -> str:
    """Every run of a grid in one page: the finished ones `shown`, of `records` (default: those).

    Empty where one run is all.
    """
    records = records or shown.runs
    if len(records) < 2:
        return ""
    name, report = records[0].notebook, page_name(records[0].notebook)
    pages = {r.run_id: page_name(name, run=r.run_id) for r in shown.runs}
    links = {run: page for run, page in pages.items() if (ws.reports / page).is_file()}
    grid = sweeps.content(records, results.read(ws, name, list(pages)), links)
    toc = [("grid", "The grid"), *((s["anchor"], s["name"]) for s in grid["sections"])]
    return render(
        ws,
        "sweep.html.j2",
        here or page_name(name, sweep=True),
        shown=shown,
        track=track(name),
        report=report if (ws.reports / report).is_file() else "",
        toc=toc,
        **grid,
    )


# --- index, scorecard, failures ----------------------------------------------------------------


def _counts(scored: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Verdicts of each reading that was run, or of the first one where none was."""
    counts = scorecard.tally(scored)
    run = [r for r in published.READINGS if sum(counts[r].values()) > counts[r]["not run"]]
    return {r: counts[r] for r in run or published.READINGS[:1]}


def _index(ws: Workspace, scored: pd.DataFrame, profile: str | None, *, failures: int) -> str:
    order = {group: i for i, group in enumerate(TRACKS)}
    tracks: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(
        notebooks.find(ws), key=lambda n: (order.get(n.partition("/")[0], len(order)), n)
    ):
        tracks.setdefault(track(name), []).append(_card(ws, name, scored, profile))
    for cards in tracks.values():
        cards.sort(key=lambda card: not card["link"])  # what has a report comes first
    return render(
        ws,
        "index.html.j2",
        INDEX,
        sentence=scorecard.headline(scored),
        publications=[*scorecard.by_publication(scored, published.load(ws))],
        report=REPORT,
        counts=_counts(scored),
        cards=[card for cards in tracks.values() for card in cards],
        tracks=tracks,
        failures=failures,
    )


def _card(ws: Workspace, name: str, scored: pd.DataFrame, profile: str | None) -> dict[str, Any]:
    source, link, grid = notebooks.path(ws, name), page_name(name), page_name(name, sweep=True)
    shown = chosen_runs(ws, name, profile)
    card = {"link": "", "title": notebooks.title(source), "notice": "", "shown": shown}
    card["sweep"] = grid if shown.runs and (ws.reports / grid).is_file() else ""
    if not shown.runs or not (ws.reports / link).is_file():
        failed = any(r.state in BROKEN for r in runs.records(ws, name))
        meta = "Ran, but has no report" if shown.runs else "Failed" if failed else "Not run yet"
        return card | {"text": notebooks.claim(source), "thumbnail": None, "meta": meta}
    mine = scored[(scored["notebook"] == name) & (scored["as"] == "described")]
    verdicts = mine["verdict"].value_counts()
    counts = ", ".join(f"{verdicts[v]} {v}" for v in scorecard.VERDICTS if v in verdicts)
    took = files.duration(sum(r.wall_s for r in shown.runs))
    content = nbformat.read(shown.folder / runs.NOTEBOOK, as_version=4)
    return card | {
        "link": link,
        "text": shown.summary["headline"],
        "thumbnail": exporter.first_picture(content),
        "notice": shown.notices[0].partition(":")[0] + "." if shown.notices else "",
        "meta": f"{took} · {counts}" if counts else took,
    }


def _scorecard(ws: Workspace, scored: pd.DataFrame) -> str:
    printed = published.load(ws)
    titles = {t.id: t.title for t in printed}
    publications = []
    for source, whole in scorecard.by_publication(scored, printed).items():
        anchor = "publication-" + exporter.slug(source)
        content = {"name": source, "anchor": anchor, "sentence": scorecard.headline(whole)}
        publications.append({**content, "tables": _tables(ws, whole, titles)})
    return render(
        ws,
        "scorecard.html.j2",
        SCORECARD,
        csv=scorecard.csv_of_runs(scored),
        sentence=scorecard.headline(scored),
        counts=_counts(scored),
        publications=publications,
        verdicts=[v for v in scorecard.VERDICTS if (scored["verdict"] == v).any()],
        toc=[(p["anchor"], p["name"]) for p in publications],
    )


def _tables(ws: Workspace, scored: pd.DataFrame, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    tables = []
    for name in scored["table"].unique():
        part = scored[scored["table"] == name]
        first = part.iloc[0]
        link = page_name(first["notebook"]) if first["notebook"] else ""
        tables.append(
            {
                "anchor": "table-" + exporter.slug(name),
                "name": f"{name}: {titles[name]}" if name in titles else name,
                "source": first["source"],
                "link": link if link and (ws.reports / link).is_file() else "",
                "html": scorecard.show(part, one_table=True, anchors=True),
                "cells": len(scorecard.cells(part)),
                "counts": _counts(part),
                "strip": _strip(part),
            }
        )
    return tables


def _strip(scored: pd.DataFrame) -> dict[str, Any]:
    """Marks of the strip of a table: how many margins ours lies from the print, cut at STRIP."""
    marks = []
    numbers = scored.assign(published=pd.to_numeric(scored["published"], errors="coerce"))
    for row in numbers.dropna(subset=["ours", "published"]).to_dict("records"):
        gap = row["ours"] - row["published"]
        unit = row["margin"] or abs(gap) / (2 * STRIP) or 1.0  # exact: equal, or beyond the end
        at, half = gap / unit, 1.96 * (row["se"] if row["se"] > 0 else 0.0) / unit
        if not math.isnan(at):
            ends = [max(-STRIP, min(STRIP, x)) for x in (at, at - half, at + half)]
            marks.append({"at": ends, "beyond": abs(at) > STRIP, **row})
    inside = sum(abs(mark["at"][0]) <= 1 for mark in marks)
    cut = sum(mark["beyond"] for mark in marks)
    return {
        "marks": marks,
        "words": f"Ours less printed, in margins: {inside} of {len(marks)} values lie within one "
        f"margin, {cut} beyond {STRIP}.",
    }


def _problems(
    ws: Workspace, profile: str | None, refused: Mapping[str, str]
) -> list[dict[str, str]]:
    """What failed, without the messages: they may hold columns, values or paths of own data."""
    problems = []
    for r in runs.records(ws):
        errors = [("", r.error)] if r.error else []
        errors += [("a figure could not be drawn: ", e) for e in r.undrawn]
        if r.state in BROKEN or errors:
            where = [f"{w}{e.get('name', 'Error')} in cell {e.get('cell', '–')}" for w, e in errors]
            why = ", ".join(where) or "Stopped before it ended"
            why += f"; `pet-lab status {r.notebook}` has the message." if errors else "."
            problems.append(
                {"notebook": r.notebook, "run_id": r.run_id, "state": r.state, "problem": why}
            )
    for name in notebooks.find(ws):
        missing = not (ws.reports / page_name(name)).is_file() and chosen_runs(ws, name, profile)[0]
        if name in refused or missing:
            why = refused.get(name, f"Ran, but has no report: `pet-lab report {name}` says why.")
            problems.append({"notebook": name, "run_id": "", "state": "refused", "problem": why})
    return problems

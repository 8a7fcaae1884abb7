"""The pages: one report per notebook, sweep pages, index, scorecard and failures."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PureWindowsPath
from typing import Any

import jinja2
import nbformat
import pandas as pd

from pet_lab import files
from pet_lab.rows import summarise
from pet_lab.workbench import explore, notebooks, plots, published, results, runs, scorecard, sweep
from pet_lab.workbench.errors import WorkbenchError
from pet_lab.workbench.report import exporter
from pet_lab.workbench.report.guard import guard, parse, sanitise
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
}
NOTICES = {
    "stand-in": "Made from a synthetic stand-in, not from the real data: the method is the same, "
    "the numbers say nothing about the printed ones, and every cell counts as not run.",
    "own": "Made from data of your own: not comparable with the printed numbers, which count as "
    "not run.",
}
MOST_METRICS = 12  # pictures on a sweep page


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
    ending = "-sweep" if sweep else f"-{run}" if run else ""
    return notebook.replace("/", "-") + ending + ".html"


# --- building ----------------------------------------------------------------------------------


def build(
    ws: Workspace, names: Iterable[str] | None = None, profile: str | None = None
) -> list[Path]:
    """Write the reports of notebooks from their finished runs, and the pages that list them.

    Parameters
    ----------
    ws : Workspace
    names : iterable of str, optional
        Notebooks (full names or unique last parts); default: all.
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
    for name in chosen:
        for kind in (_report, _sweep_page):
            target = ws.reports / page_name(name, sweep=kind is _sweep_page)
            try:
                html = kind(ws, name, profile)
                if html is None:
                    target.unlink(missing_ok=True)
                    continue
                done, _, _ = chosen_runs(ws, name, profile)
                written.append(_write(ws, target, html, _loaded(done[0])))
            except OSError:
                raise
            except Exception as error:  # one bad notebook must not cost the others their report
                target.unlink(missing_ok=True)
                refused[name] = _reason(ws, error)
    written += build_index(ws, profile=profile, refused=refused)
    if refused:
        raise RefusedReports(written, refused)
    return written


def build_run(ws: Workspace, record: RunRecord) -> Path:
    """Write the report of one finished run, whatever its parameters; not listed in the index.

    Raises
    ------
    RefusedReports
        If the guard refused it; then nothing is written.
    """
    target = ws.reports / page_name(record.notebook, run=record.run_id)
    stale = bool(runs.stale(record, runs.fingerprints(ws, record.notebook)))
    try:
        html = _page(ws, [record], "", stale, target.name)
        return _write(ws, target, html, _loaded(record))
    except OSError:
        raise
    except Exception as error:
        raise RefusedReports([], {record.notebook: _reason(ws, error)}) from None


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
        FAILURES: _render(ws, "failures.html.j2", FAILURES, failures=failures),
    }
    if _glossary(ws).is_file():
        pages[GLOSSARY] = _glossary_page(ws)
    else:
        (ws.reports / GLOSSARY).unlink(missing_ok=True)
    return [_write(ws, ws.reports / name, html) for name, html in pages.items()]


def _write(ws: Workspace, target: Path, html: str, rows: Mapping[str, Any] | None = None) -> Path:
    guard(html, root=ws.root, rows=rows)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(target, html.encode())
    except OSError as error:
        raise OSError(error.errno, files.why(error, target.name)) from error
    return target


def _loaded(record: RunRecord) -> Mapping[str, Any] | None:
    """Hashes of the records that the run read, where its notebook handed them over."""
    return results.summary(record).get("guard_rows")


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
    return environment


def _render(ws: Workspace, template: str, here: str, **values: Any) -> str:
    pages = [(INDEX, "Overview"), (SCORECARD, "Scorecard"), (FAILURES, "Failures")]
    if _glossary(ws).is_file():
        pages.append((GLOSSARY, "Glossary"))
    return _templates().get_template(template).render(here=here, pages=pages, **values)


# --- which run a page shows --------------------------------------------------------------------


def chosen_runs(
    ws: Workspace, name: str, profile: str | None = None
) -> tuple[list[RunRecord], str, bool]:
    """(finished runs in the order of their plan, the profile's name, whether they are stale).

    Of the profiles the first one that is complete counts, else the one with most runs done.
    """
    wanted = (profile,) if profile else PROFILES
    for stale in (False, True):
        done = {p: sweep.profile_runs(ws, name, p, stale=stale) for p in wanted}
        complete = [p for p in wanted if len(done[p]) == len(sweep.plan_profile(ws, name, p))]
        best = complete[0] if complete else max(wanted, key=lambda p: len(done[p]))
        if done[best]:
            return done[best], best, stale
    if profile:
        return [], profile, False
    return [r for r in runs.records(ws, name) if r.ok][-1:], "", False


def _notices(summary: Mapping[str, Any], stale: bool) -> list[str]:
    kinds = [item["kind"] for item in summary.get("data", ())]
    notices = [text for kind, text in NOTICES.items() if kind in kinds]
    if stale:
        notices.append("Out of date: the code, data or environment changed after this run.")
    return notices


# --- one notebook ------------------------------------------------------------------------------


def _report(ws: Workspace, name: str, profile: str | None) -> str | None:
    done, chosen, stale = chosen_runs(ws, name, profile)
    return _page(ws, done, chosen, stale, page_name(name)) if done else None


def _page(ws: Workspace, done: Sequence[RunRecord], chosen: str, stale: bool, here: str) -> str:
    """The report on the first of the runs `done`, for the file `here`."""
    record = done[0]
    name = record.notebook
    assert record.folder is not None
    summary = results.summary(record.folder)
    content = nbformat.read(record.folder / runs.NOTEBOOK, as_version=4)
    body = exporter.export(content, link=functools.partial(_link, ws, ws.notebooks / name))
    toc = [*body.contents, ("parameters-of-this-run", "Parameters"), ("provenance", "Provenance")]
    return _render(
        ws,
        "report.html.j2",
        here,
        title=exporter.inline(notebooks.title(record.folder / runs.NOTEBOOK)),
        track=track(name),
        profile=chosen,
        notices=_notices(summary, stale),
        headline=exporter.inline(summary["headline"]),
        simulation=summary["simulation"],
        privacy=[exporter.inline(s) for s in summary["privacy"]],
        facts=_facts(record, len(done), summary),
        body=body.html,
        toc=toc,
        parameters=_parameters(ws, name, record),
        provenance=_provenance(record),
        data=[
            {"licence": "", "citation": "", "sha256": "", **item}
            | {"citation": exporter.inline(str(item.get("citation") or ""))}
            for item in summary["data"]
        ],
        command=_command(ws, name, record),
    )


def track(name: str) -> str:
    """Title of the group a notebook belongs to."""
    group = name.partition("/")[0] if "/" in name else ""
    return TRACKS.get(group, group.replace("_", " ").capitalize() or "Notebooks")


def _link(ws: Workspace, source: Path, target: str) -> str | None:
    """The report for a link in `source` to a notebook; nothing else lies beside a report."""
    path, _, anchor = target.partition("#")
    if not path.endswith(".ipynb"):
        return None
    try:
        other = (
            (source.parent / path).resolve().relative_to(ws.notebooks).with_suffix("").as_posix()
        )
    except ValueError:
        return None
    if other not in notebooks.find(ws):
        return None
    return page_name(other) + (f"#{exporter.slug(anchor)}" if anchor else "")


def _facts(record: RunRecord, of: int, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Run on", _day(record.ended or record.started)),
        ("Runtime", files.duration(record.wall_s)),
        ("Seed", str(record.seed) if record.seed is not None else "–"),
        ("Rows", f"{summary['rows']:,}"),
    ]
    return [*facts, ("Runs in its grid", str(of))] if of > 1 else facts


def _day(moment: str) -> str:
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return "–"
    return f"{at.day} {at:%B %Y}"


def _parameters(ws: Workspace, name: str, record: RunRecord) -> list[dict[str, str]]:
    assert record.folder is not None
    known = notebooks.parameters(record.folder / runs.NOTEBOOK)
    rows = []
    for key, value in record.parameters.items():
        spec = known.get(key)
        changed = spec is not None and spec.default != value
        rows.append(
            {
                "name": key,
                "value": _value(value),
                "default": _value(spec.default) if spec and changed else "",
                "help": spec.help if spec else "",
            }
        )
    return rows


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _without_folder(value) if value != "" else "“”"


def _without_folder(value: Any) -> str:
    """The value as text; of an absolute path only the name, where it lay is nobody's business."""
    text = str(value)
    absolute = text.startswith(("/", "~")) or PureWindowsPath(text).is_absolute()
    return PureWindowsPath(text).name if absolute else text


def _provenance(record: RunRecord) -> list[tuple[str, str]]:
    commit = record.git.get("commit", "unknown")
    if record.git.get("dirty"):
        commit += " with uncommitted changes"
    return [
        ("Run", record.run_id),
        ("Commit", commit),
        ("Started", record.started or "–"),
        ("Ended", record.ended or "–"),
        ("CPU time", files.duration(record.cpu_s)),
        ("Lock", str(record.fingerprints.get("lock") or "none")[:16]),
        ("Versions", ", ".join(f"{k} {v}" for k, v in record.versions.items()) or "unknown"),
    ]


def _command(ws: Workspace, name: str, record: RunRecord) -> str:
    """The command line that repeats the run: only what differs from the notebook's defaults."""
    import shlex

    assert record.folder is not None
    known = notebooks.parameters(record.folder / runs.NOTEBOOK)
    words = ["pet-lab", "run", name]
    for key, value in record.parameters.items():
        if key not in known or known[key].default != value:
            text = json.dumps(value) if isinstance(value, list | bool) else _without_folder(value)
            words += ["-p", f"{key}={text}"]
    return shlex.join(words)


# --- a sweep -----------------------------------------------------------------------------------


def _sweep_page(ws: Workspace, name: str, profile: str | None) -> str | None:
    done, _, stale = chosen_runs(ws, name, profile)
    if len(done) < 2:
        return None
    varied = _varied(done)
    rows = results.read(ws, name, [r.run_id for r in done])
    factors = list(dict.fromkeys([*(c for c in varied if c in rows), *explore.factors(rows)]))
    factors = [f for f in factors if f != "seed"]
    assert done[0].folder is not None
    title = exporter.inline(notebooks.title(done[0].folder / runs.NOTEBOOK))
    sections = [
        _sweep_section(str(metric), part, factors, varied)
        for metric, part in list(rows.groupby("metric", sort=False))[:MOST_METRICS]
    ]
    listed = [
        {k: _value(r.parameters[k]) for k in varied}
        | {"run": r.run_id, "runtime": files.duration(r.wall_s)}
        for r in done[: plots.MOST_ROWS]
    ]
    over = " × ".join(plots.label(k) for k in varied) or "seeds"
    return _render(
        ws,
        "sweep.html.j2",
        page_name(name, sweep=True),
        title=title,
        track=track(name),
        notices=_notices(results.summary(done[0].folder), stale),
        sentence=f"{len(done)} runs over {over}: {len(rows):,} rows, "
        f"{rows['metric'].nunique()} metrics. Intervals are 95 % Monte Carlo intervals.",
        report=page_name(name),
        sections=sections,
        runs=plots.table_html(pd.DataFrame(listed), caption="The runs behind this page"),
        toc=[*((s["anchor"], s["name"]) for s in sections), ("runs", "Runs")],
    )


def _varied(done: Sequence[RunRecord]) -> list[str]:
    """Parameters that differ between runs; the seed alone is a replicate, not a factor."""
    values = {
        key: {files.canonical_json(r.parameters.get(key)) for r in done}
        for key in done[0].parameters
    }
    varied = [key for key, seen in values.items() if len(seen) > 1]
    return [k for k in varied if k != "seed"] or varied


def _sweep_section(
    metric: str, rows: pd.DataFrame, factors: Sequence[str], varied: Sequence[str]
) -> dict[str, Any]:
    """One metric: a picture per varied parameter, another factor as lines, and the table of means.

    Nothing is averaged over a factor: what is neither axis nor line is held at its first value.
    """
    factors = [f for f in factors if rows[f].nunique(dropna=False) > 1]
    table = summarise(rows, [*factors, "metric"]).drop(columns="metric")
    pictures = []
    for x in [f for f in factors if f in varied]:
        lines = [f for f in reversed(factors) if f != x and rows[f].nunique() <= len(plots.COLOURS)]
        hue = lines[0] if lines else None
        held = {f: rows[f].iloc[0] for f in factors if f not in (x, hue)}
        fig, what = explore.picture(rows, x=x, metric=metric, hue=hue, held=held)
        pictures.append(
            {
                "uri": plots.render(fig)[2],
                "width": round(fig.get_figwidth() * 100),
                "alt": f"Chart of {what}. The numbers are in the table below.",
                "caption": f"{what[:1].upper()}{what[1:]}.",
            }
        )
    table = table.rename(columns={"n": "replicates"})
    shown = table.sort_values(factors).head(plots.MOST_ROWS) if factors else table
    left_out = f" (the first {len(shown)} of {len(table)} rows)" if len(shown) < len(table) else ""
    return {
        "name": plots.label(metric),
        "anchor": "metric-" + exporter.slug(metric),
        "pictures": pictures,
        "table": plots.table_html(
            shown, caption=f"Means of {plots.label(metric)} over replicates{left_out}"
        ),
    }


# --- index, scorecard, failures ----------------------------------------------------------------


def _counts(scored: pd.DataFrame) -> list[dict[str, Any]]:
    counts = scorecard.tally(scored)
    run = [r for r in published.READINGS if sum(counts[r].values()) > counts[r]["not run"]]
    return [
        {"name": f"Read as {r}", "parts": [(v, counts[r][v]) for v in scorecard.VERDICTS]}
        for r in run or published.READINGS[:1]
    ]


def _index(ws: Workspace, scored: pd.DataFrame, profile: str | None, *, failures: int) -> str:
    tracks: dict[str, list[dict[str, Any]]] = {}
    sweeps, stand_ins = [], []
    names = notebooks.find(ws)
    order = {group: i for i, group in enumerate(TRACKS)}
    for name in sorted(names, key=lambda n: (order.get(n.partition("/")[0], 99), n)):
        card = _card(ws, name, scored, profile)
        tracks.setdefault(track(name), []).append(card)
        if card["notice"]:
            stand_ins.append(card["title"])
        if (ws.reports / page_name(name, sweep=True)).is_file():
            done, _, _ = chosen_runs(ws, name, profile)
            text = f"{len(done)} runs over {', '.join(map(plots.label, _varied(done)))}"
            link = page_name(name, sweep=True)
            sweeps.append({"link": link, "title": card["title"], "text": text})
    notices = []
    if stand_ins:
        notices.append(
            f"{len(stand_ins)} of {len(names)} notebooks ran on a stand-in or on own data: "
            "their cells count as not run."
        )
    if failures:
        what = "run or report" if failures == 1 else "runs or reports"
        notices.append(f'{failures} {what} failed: see <a href="{FAILURES}">failures</a>.')
    return _render(
        ws,
        "index.html.j2",
        INDEX,
        heading="Do the printed numbers hold?",
        sentence=scorecard.headline(scored),
        counts=_counts(scored),
        notices=notices,
        tracks=[
            {"name": name, "anchor": exporter.slug(name), "cards": cards}
            for name, cards in tracks.items()
        ],
        sweeps=sweeps,
    )


def _card(ws: Workspace, name: str, scored: pd.DataFrame, profile: str | None) -> dict[str, Any]:
    source = notebooks.path(ws, name)
    card: dict[str, Any] = {
        "link": "",
        "title": exporter.inline(notebooks.title(source)),
        "text": exporter.inline(notebooks.claim(source)),
        "thumbnail": None,
        "notice": "",
        "meta": "Not run yet",
    }
    done, _, stale = chosen_runs(ws, name, profile)
    if not done or not (ws.reports / page_name(name)).is_file():
        failed = any(r.state in BROKEN for r in runs.records(ws, name))
        why = "Ran, but has no report" if done else "Failed" if failed else card["meta"]
        return card | {"meta": why}
    folder = done[0].folder
    assert folder is not None
    summary = results.summary(folder)
    mine = scored[(scored["notebook"] == name) & (scored["as"] == "described")]
    verdicts = mine["verdict"].value_counts()
    counts = ", ".join(f"{verdicts[v]} {v}" for v in scorecard.VERDICTS if v in verdicts)
    took = files.duration(sum(r.wall_s for r in done))
    image = exporter.first_picture(nbformat.read(folder / runs.NOTEBOOK, as_version=4))
    notices = _notices(summary, stale)
    return card | {
        "link": page_name(name),
        "text": exporter.inline(summary["headline"]),
        "thumbnail": image,
        "notice": notices[0].partition(":")[0] + "." if notices else "",
        "meta": f"{took} · {counts}" if counts else took,
    }


def _scorecard(ws: Workspace, scored: pd.DataFrame) -> str:
    titles = {t.id: t for t in published.load(ws)}
    tables = []
    for name, part in scored.groupby("table", sort=False):
        known = titles.get(str(name))
        notebook = part["notebook"].iloc[0]
        link = page_name(notebook) if notebook else ""
        tables.append(
            {
                "anchor": "table-" + exporter.slug(str(name)),
                "name": f"{name}: {known.title}" if known else str(name),
                "source": part["source"].iloc[0],
                "link": link if link and (ws.reports / link).is_file() else "",
                "html": _without_table(scorecard.show(part)),
                "folded": len(part) if (part["verdict"] == "not run").all() else 0,
            }
        )
    return _render(
        ws,
        "scorecard.html.j2",
        SCORECARD,
        sentence=scorecard.headline(scored),
        counts=_counts(scored),
        tables=tables,
        toc=[(t["anchor"], t["name"]) for t in tables],
    )


def _without_table(shown: str) -> str:
    """A scorecard under the heading of its table, without the column that repeats it."""
    soup = parse(shown)
    for row in soup.find_all("tr"):
        first, second = row.find_all(["th", "td"], limit=2)
        first.decompose()
        second.name, second["scope"] = "th", "row" if row.find_parent("tbody") else "col"
    exporter.mend_tables(soup)
    return soup.body.decode_contents()


def _problems(
    ws: Workspace, profile: str | None, refused: Mapping[str, str]
) -> list[dict[str, str]]:
    problems = [
        {
            "notebook": r.notebook,
            "run_id": r.run_id,
            "state": r.state,
            "problem": sanitise(r.problem or "It was stopped before it ended.", root=ws.root),
        }
        for r in runs.records(ws)
        if r.state in BROKEN
    ]
    for name in notebooks.find(ws):
        why = refused.get(name)
        missing = not (ws.reports / page_name(name)).is_file() and chosen_runs(ws, name, profile)[0]
        if why or missing:
            why = why or f"Ran, but has no report: `pet-lab report {name}` says why."
            problems.append({"notebook": name, "run_id": "", "state": "refused", "problem": why})
    return problems


def _glossary(ws: Workspace) -> Path:
    return ws.root / "docs" / "glossary.md"


def _glossary_page(ws: Workspace) -> str:
    source = _glossary(ws)
    body = exporter.prose(source.read_text(encoding="utf-8"), functools.partial(_link, ws, source))
    return _render(ws, "glossary.html.j2", GLOSSARY, body=body.html, toc=body.contents)

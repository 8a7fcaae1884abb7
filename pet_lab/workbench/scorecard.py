"""Our numbers beside the printed ones, each with a verdict of :mod:`pet_lab.workbench.verdicts`.

An ``exact`` cell is reproduced if and only if ours rounds to the printed digits, or lies within a
margin that the table states, unless our rows vary, which a random stand-in for the data makes them
do: then it is compared as a mean, and the note says so. A cell without rows is listed as not run,
and the note says why.

Cells are many small questions; ``joint`` asks one large: is the printed table, as a whole, a
plausible run of ours? It is the share of our runs that lie as far out (:func:`verdicts.joint`),
NaN where fewer than 20 complete runs of the table's one-run cells are known.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from math import ceil, isfinite, isinf, isnan, nan, sqrt
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from pet_lab import files
from pet_lab.workbench import consistency, notebooks, published, results, sweep, verdicts
from pet_lab.workbench.consistency import Contradiction
from pet_lab.workbench.published import (
    READINGS,
    Cell,
    PrintedTable,
    Value,
    where_text,
)
from pet_lab.workbench.runs import DataFingerprint, RunRecord, RunSpec
from pet_lab.workbench.tables import breakable, csv_link
from pet_lab.workbench.verdicts import TINY, VERDICTS, Ours, Verdict
from pet_lab.workbench.workspace import Workspace

_FLOATS = ("ours", "se", "sd", "margin", "joint")
COLUMNS = (
    *("source", "table", "where", "metric", "published", "ours", "se", "sd", "replicates"),
    *("verdict", "as", "inconsistent", "note", "notebook", "unit", "margin", "joint"),
)
_JSON = (
    *("source", "table", "where", "metric", "published", "ours", "se", "replicates"),
    *("verdict", "as", "note", "inconsistent", "joint"),
)

NOT_COUNTED = "its runs used stand-in or own data, which cannot be held against print."
GROWTH = 4
_COMPLETE = 20  # runs of a whole table, so that a p value can fall below 5 %
_MOST = 0.9

# ------------------------------------------------------------------ rows to verdicts


def score(
    rows: pd.DataFrame,
    tables: PrintedTable | str | Iterable[PrintedTable | str] | None = None,
    *,
    not_run: str = "",
    contradictions: Iterable[Contradiction] | None = None,
    look: int = 0,
) -> pd.DataFrame:
    """One verdict per printed cell and reading, run or not: the columns COLUMNS.

    `where` holds dicts; NaN stands where nothing was run. PublishedError if a table's id is
    unknown, ValueError if non-empty rows lack `metric` or `value`.

    Parameters
    ----------
    rows : tidy rows: factor columns, `metric`, `value`, and optionally `replicate`, `seed`, `se`,
        `replicates_n` and `reading` (absent means "described"). A cell takes the rows whose factor
        columns equal its conditions, averaged over replicates. NaN is left out and reported. A
        column `table` reserves rows for one printed table; empty means any.
    tables : default: every table that ships with the package.
    not_run : why cells without rows have none, where the caller knows better ("stand-in data").
    contradictions : among printed numbers; default: computed over all known tables.
    look : how often the verdicts are asked for while replicates grow, see `verdicts.at_look`.
    """
    if tables is None:
        chosen = published.load()
    else:
        given = (tables,) if isinstance(tables, PrintedTable | str) else tables
        chosen = published.named(*given)
    if contradictions is None:
        known = {t.id: t for t in published.load()} | {t.id: t for t in chosen}
        contradictions = consistency.check(known.values())
    odd: dict[tuple[str, str, str], dict[str, None]] = {}  # sentences, each once, in order
    for c in contradictions:
        odd.setdefault((c.table, where_text(c.where), c.metric), {})[c.sentence] = None
    if not results.against_print(rows):
        rows, not_run = rows.iloc[:0], not_run or NOT_COUNTED
    groups = _grouped(rows)
    records = []
    for table in chosen:
        judged = _judged(table, groups, not_run, look)
        for i, cell in enumerate(table.cells):
            sentences = odd.get((table.id, where_text(cell.where), cell.metric), ())
            for reading in table.readings:
                records.append(
                    {
                        "source": table.source,
                        "table": table.id,
                        "where": dict(cell.where),
                        "metric": cell.metric,
                        "published": cell.printed,
                        **judged[i, reading],
                        "as": reading,
                        "inconsistent": " ".join(sentences),
                        "notebook": table.notebook,
                        "unit": cell.unit,
                        "margin": cell.margin,
                    }
                )
    df = pd.DataFrame(records, columns=list(COLUMNS))
    return df.astype({"replicates": "int64", **dict.fromkeys(_FLOATS, "float64")})


_Groups = Mapping[tuple[str, str], pd.DataFrame]


def _grouped(rows: pd.DataFrame) -> _Groups:
    """Rows by metric and reading."""
    if rows.empty:
        return {}
    if missing := {"metric", "value"} - set(rows.columns):
        raise ValueError(f"rows need the columns metric and value; {sorted(missing)} is missing.")
    reading = rows["reading"] if "reading" in rows else pd.Series(np.nan, index=rows.index)
    labels = [rows["metric"].astype(str), reading.astype(object).fillna("described").astype(str)]
    return {(str(m), str(r)): part for (m, r), part in rows.groupby(labels, sort=False)}


def _judged(
    table: PrintedTable, groups: _Groups, not_run: str, look: int
) -> dict[tuple[int, str], dict[str, Any]]:
    """Verdict, note and numbers of every (index of a cell, reading)."""
    rows: dict[tuple[int, str], pd.DataFrame] = {
        (i, reading): _matching(groups, cell, reading)
        for i, cell in enumerate(table.cells)
        for reading in table.readings
    }
    mixed = {key: _mixed(matched) for key, matched in rows.items() if len(matched)}
    ours = {key: _estimate(rows[key]) for key, columns in mixed.items() if not columns}
    for key, o in ours.items():  # a number that a few runs lack is 0/0 there
        runs = max(other.runs for (_, reading), other in ours.items() if reading == key[1])
        if _MOST * runs <= o.runs < runs:
            ours[key] = replace(o, undefined=o.undefined + runs - o.runs)
    # What does not vary cannot be wrong by chance, so it is no member of the family.
    family = verdicts.at_look(max(1, sum(o.se != 0 for o in ours.values())), look)
    many = [key for key, o in ours.items() if table.cells[key[0]].kind == "one_run" and o.enough]
    samples = [cast(verdicts.Floats, ours[key].values) for key in many]
    floors = [table.cells[i].rounding for i, _ in many]
    spreads = dict(zip(many, verdicts.empirical(samples, floors, cells=family), strict=True))
    joint: dict[str, float] = {
        reading: _joint(table, reading, rows, ours) for reading in table.readings
    }
    judged: dict[tuple[int, str], dict[str, Any]] = {}
    for key, matched in rows.items():
        cell, reading = table.cells[key[0]], key[1]
        own = ours.get(key, Ours(mean=nan, replicates=0))
        word: Verdict = "not run"
        if matched.empty:
            note = not_run or "no row has this metric under these conditions."
            if any(len(_matching(groups, cell, other)) for other in READINGS):
                note = f"the runs do not cover the reading {reading!r}."
            elif not groups:
                note = not_run or "no run yet."
        elif mixed[key]:
            word = "undecided"
            note = f"the rows mix several values of {mixed[key]} for one replicate."
        else:
            word, note = verdicts.verdict(cell, own, cells=family, spread=spreads.get(key))
            if own.undefined and own.replicates:
                note += f" {own.undefined} of our runs undefined (0/0), left out."
            if own.diverged:
                note += f" {own.diverged} of our runs diverged (infinite), left out."
            if word == "differs":
                note = f"{table.cause(cell, reading) or 'cause not known'}. {note}"
        judged[key] = {
            "ours": own.mean,
            "se": own.se,
            "sd": own.sd,
            "replicates": own.replicates,
            "verdict": word,
            "note": note.strip().rstrip("."),
            "joint": joint[reading],
        }
    return judged


def _joint(
    table: PrintedTable,
    reading: str,
    rows: Mapping[tuple[int, str], pd.DataFrame],
    ours: Mapping[tuple[int, str], Ours],
) -> float:
    """:func:`verdicts.joint` over the one-run cells of a table, in the print's digits."""
    columns, printed = [], []
    for i, cell in enumerate(table.cells):
        if cell.kind != "one_run" or (i, reading) not in ours or not isfinite(cell.value):
            continue
        matched = rows[i, reading]
        streams = _streams(matched)
        if not streams:
            return nan
        unit = 2 * cell.rounding
        column = matched.drop_duplicates(streams).set_index(streams)["value"]
        columns.append((column / unit).round() * unit)
        printed.append(cell.value)
    if len(columns) < 2:
        return nan
    runs = pd.concat(columns, axis=1).replace([np.inf, -np.inf], nan)
    # What a few runs lack is 0/0; what most lack was not run so often: their own runs count alone.
    for index in [column.index for column in columns if len(column) < _MOST * len(runs)]:
        runs = runs[runs.index.isin(index)]
    if len(runs) < _COMPLETE or runs.notna().sum().min() < _COMPLETE:
        return nan
    return verdicts.joint(runs.to_numpy(dtype=float), np.array(printed))


def _matching(groups: _Groups, cell: Cell, reading: str) -> pd.DataFrame:
    rows = groups.get((cell.metric, reading), pd.DataFrame())
    if not cell.conditions.keys() <= set(rows):
        return pd.DataFrame()
    for column, value in cell.conditions.items():
        rows = rows[_equal(rows[column], value)]
    if "table" in rows:
        # Two tables may print the same metric under the same conditions, and mean different things.
        rows = rows[_equal(rows["table"], cell.table) | _equal(rows["table"].fillna(""), "")]
    return rows


def _equal(column: pd.Series, value: Value) -> np.ndarray[Any, Any]:
    if isinstance(value, bool | str):
        return (column.astype(object) == value).to_numpy(dtype=bool)
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    return np.isclose(numbers, value, rtol=TINY, atol=0)  # inf equals inf, NaN nothing


def _streams(rows: pd.DataFrame) -> list[str]:
    """Columns that name a random stream: two rows that share them are not independent."""
    return [c for c in ("replicate", "seed") if c in rows]


def _mixed(rows: pd.DataFrame) -> str:
    """Columns that still vary within one replicate, so that an average would mix unlike things."""
    streams = _streams(rows)
    if not streams:
        return ""
    rows = rows.drop_duplicates([*streams, "value"])
    twins = rows[rows.duplicated(streams, keep=False)]
    same = [*streams, "value", "se", "replicates_n", "run_id"]
    factors = twins.drop(columns=same, errors="ignore")
    varying = [str(c) for c in factors if factors[c].astype(str).nunique() > 1]
    return "" if twins.empty else ", ".join(varying) or "the value"


def _estimate(rows: pd.DataFrame) -> Ours:
    # The same stream with the same value is one replicate that several runs have written down.
    rows = rows.drop_duplicates([*_streams(rows), "value"]) if _streams(rows) else rows
    values = rows["value"].to_numpy(dtype=float)
    # An infinite epsilon is a result; one infinite value among finite ones is a diverged run.
    defined = ~np.isnan(values)
    keep = np.isfinite(values) if np.isfinite(values).any() else defined
    lost: Any = {"undefined": int((~defined).sum()), "diverged": int((defined & ~keep).sum())}
    values = values[keep]
    n = len(values)
    if n == 0:
        return Ours(mean=nan, replicates=0, **lost)
    mean = float(values[0])
    if n == 1:
        row = rows[keep].iloc[0]
        se, n_behind = (float(row.get(c, nan)) for c in ("se", "replicates_n"))
        if not n_behind > 1:  # in the tables of summaries some rows are single replicates
            return Ours(mean=mean, se=se, **lost)
        sd, behind = se * sqrt(n_behind), int(n_behind)
        return Ours(mean=mean, se=se, sd=sd, replicates=behind, df=behind - 1, **lost)
    if isinf(mean):
        return Ours(mean=mean, replicates=n, **lost)
    sd = 0.0
    if np.ptp(values) > TINY * max(1.0, float(np.abs(values).max())):
        mean, sd = float(values.mean()), float(values.std(ddof=1))
    return Ours(mean=mean, se=sd / sqrt(n), sd=sd, replicates=n, df=n - 1, values=values, **lost)


# ------------------------------------------------------------------ the scorecard of a workspace


def from_runs(
    ws: Workspace,
    profile: str | None = None,
    *,
    data_fingerprint: DataFingerprint | None = None,
    stale: bool = False,
    sequential: bool = False,
) -> pd.DataFrame:
    """The scorecard of a workspace: every printed cell, judged by the runs that are on disk.

    Runs of the profile count ("quick" or "full"; default, for each notebook: "full" where all its
    runs are done and fresh, else "quick"), with `stale` also those whose notebook, package, data or
    lock has changed since. `data_fingerprint` is as for :func:`pet_lab.workbench.sweep.pending`.
    Runs of :func:`further` count too; with them, or as the first of several looks (`sequential`),
    verdicts are those of the look.
    """
    tables = published.load(ws)
    contradictions = consistency.check(tables)
    parts: list[pd.DataFrame] = []
    late: dict[str, str] = {}
    origins: dict[str, tuple[str, str]] = {}
    for notebook in dict.fromkeys(t.notebook for t in tables):
        fresh = {"data_fingerprint": data_fingerprint, "stale": stale}
        counted, which, reason = countable(ws, notebook, profile, **fresh)
        origins[notebook] = (which if counted else "", _commits(counted))
        rows = (
            results.read(ws, notebook, [r.run_id for r in counted]) if counted else pd.DataFrame()
        )
        mine = [t for t in tables if t.notebook == notebook]
        late |= {t.id: _late(t, counted) for t in mine}
        look = max(map(sweep.look, counted), default=1)
        look = look if sequential or look > 1 else 0
        odd = {"contradictions": contradictions}
        parts.append(score(rows, mine, not_run=reason, look=look, **odd))
    order = {t.id: i for i, t in enumerate(tables)}
    df = pd.concat(parts, ignore_index=True)
    df["note"] = [
        ". ".join(filter(None, (note, late[table])))
        for note, table in zip(df["note"], df["table"], strict=True)
    ]
    df = df.sort_values("table", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)
    df.attrs["origins"] = origins
    df.attrs["warnings"] = [text for text in late.values() if text]
    return df


def further(ws: Workspace, df: pd.DataFrame, profile: str, **chosen: Any) -> list[RunSpec]:
    """The replicates that the notes of undecided cells ask for: the profile's runs, further seeds.

    At most GROWTH times as many seeds as there are: the note is an estimate, asked for again then.
    """
    specs: list[RunSpec] = []
    for notebook, cells in df[df["verdict"] == "undecided"].groupby("notebook", sort=False):
        asked = cells["note"].map(verdicts.wanted) / cells["replicates"].clip(lower=1)
        done = sweep.further_runs(ws, str(notebook), profile, **chosen)
        if asked.max() > 1:
            seeds = 1 + len({r.seed for r in done})
            look = 1 + max(map(sweep.look, done), default=1)
            seeds = ceil(seeds * min(asked.max(), GROWTH))
            specs += sweep.further(ws, str(notebook), profile, seeds=seeds, at=look)
    return specs


def _late(table: PrintedTable, counted: Iterable[RunRecord]) -> str:
    """A warning where the margins are not those that stood when the rows were made."""
    for record in counted:
        then = record.fingerprints.get("margins")
        if then is not None and then.get(table.id) != table.margins:
            return (
                f"Margins of table {table.id} were set after its rows: rows of "
                f"{record.ended[:19]}, margins of {table.written[:19]} UTC; run it again with "
                "another seed"
            )
    return ""


def _commits(records: Iterable[RunRecord]) -> str:
    states = ((r.git.get("commit", ""), r.git.get("dirty")) for r in records)
    return " ".join(dict.fromkeys(c[:12] + "+" * bool(dirty) for c, dirty in states if c))


def countable(
    ws: Workspace, notebook: str, profile: str | None, **chosen: Any
) -> tuple[list[RunRecord], str, str]:
    """Runs that may be held against print, and of which profile, or none and the reason."""
    if notebook not in notebooks.find(ws):
        return [], "", f"there is no notebook {notebook} yet."
    which = profile or "full"
    done = sweep.profile_runs(ws, notebook, which, **chosen)
    if not profile and len(done) < len(sweep.plan_profile(ws, notebook, "full")):
        which = "quick"
        done = sweep.profile_runs(ws, notebook, which, **chosen)
    if not done:
        old = sweep.profile_runs(ws, notebook, profile or "quick", stale=True)
        return [], which, "its runs are out of date." if old else "no finished run."
    done += sweep.further_runs(ws, notebook, which, **chosen)
    counted = [r for r in done if results.summary(r).get("counts", True)]
    return counted, which, "" if counted else NOT_COUNTED


# ------------------------------------------------------------------ tell


def tally(df: pd.DataFrame) -> dict[str, Any]:
    """Counts: `cells`, `inconsistent`, per reading a count of each verdict, and the `sentence`."""
    keys = _keys(df)
    counts = {r: df.loc[df["as"] == r, "verdict"].value_counts() for r in READINGS}
    return {
        "cells": int(keys.nunique()),
        **{r: {v: int(n.get(v, 0)) for v in VERDICTS} for r, n in counts.items()},
        "inconsistent": int(keys[df["inconsistent"] != ""].nunique()),
        "sentence": headline(df),
    }


def by_publication(df: pd.DataFrame, tables: Iterable[PrintedTable]) -> dict[str, pd.DataFrame]:
    """The scorecard of each publication, by its name, in the order of their first tables.

    A publication is a folder of printed tables; the source of most of them names it, else the
    folder does.
    """
    folders: dict[str, list[PrintedTable]] = {}
    for table in tables:
        folders.setdefault(table.publication, []).append(table)
    parts = {}
    for folder, own in folders.items():
        source, times = Counter(t.source for t in own).most_common(1)[0]
        named = source if 2 * times > len(own) else folder.replace("_", " ").capitalize()
        parts[named] = df[df["table"].isin([t.id for t in own])]
    return {name: part for name, part in parts.items() if len(part)}


def headline(df: pd.DataFrame) -> str:
    """One sentence: "Of 12 printed cells, 5 are reproduced, 3 are compatible, 4 differ."

    Readings that were run are told apart; cells that contradict other printed cells are counted.
    """
    keys = _keys(df)
    total = int(keys.nunique())
    run = [r for r in READINGS if ((df["as"] == r) & (df["verdict"] != "not run")).any()]
    parts = []
    for reading in run:
        counts = df.loc[df["as"] == reading, "verdict"].value_counts()
        part = ", ".join(_count(int(counts[v]), v) for v in VERDICTS if v in counts)
        parts.append(part if run == ["described"] else f"as {reading}: {part}")
    cells = f"Of {total} printed cell{'' if total == 1 else 's'}"
    text = f"{cells}, {'; '.join(parts) or 'none has been run'}"
    odd = int(keys[df["inconsistent"] != ""].nunique())
    if odd:
        text += f"; {odd} {'contradicts' if odd == 1 else 'contradict'} other printed numbers"
    return text + "."


def _keys(df: pd.DataFrame) -> pd.Series:
    """One text per printed cell."""
    where = df["where"].map(where_text)
    return df["source"] + "|" + df["table"] + "|" + where + "|" + df["metric"]


def _count(n: int, word: Verdict) -> str:
    if word == "differs":
        return f"{n} {'differs' if n == 1 else 'differ'}"
    return f"{n} {'is' if n == 1 else 'are'} {word}"


NOT_HELD = (
    "Nothing is held against the publication here: this run is not of the data that it reports on."
)


class _Html(str):
    """HTML that a notebook renders; its plain text is the headline."""

    summary: str = ""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return self.summary


# A sign and a word each, so that no verdict rests on colour. The hues are those of the plots, dark
# enough for white text (contrast above 5:1).
_BADGES: Mapping[Verdict, tuple[str, str]] = {
    "reproduced": ("✓", "color:#fff;background:#006b4e"),
    "differs": ("✗", "color:#fff;background:#a83a00"),
    "compatible": ("≈", "color:#fff;background:#24577f"),
    "uninformative": ("○", "color:#fff;background:#5b5b6b"),
    "undecided": ("?", "color:#fff;background:#7a5200"),
    "undefined": ("∅", "color:#fff;background:#6b4a6b"),
    "not run": ("–", "border:1px solid currentColor"),
}
_TEMPLATE = Path(__file__).resolve().parent / "templates" / "verdicts.html.j2"


def show(
    df: pd.DataFrame,
    caption: str | None = None,
    *,
    one_table: bool = False,
    counts: bool = True,
    anchors: bool = False,
) -> Any:
    """The scorecard as an accessible HTML table, a row per printed cell, its readings side by side.

    The caption is the headline unless given; with `one_table` no column repeats the table's id;
    `anchors` makes each row a target for links. A run that does not count (`Dataset.counts`) gets a
    sentence and no verdicts.
    """
    import jinja2

    if not counts:
        from IPython.display import Markdown

        return Markdown(NOT_HELD)
    summary = headline(df)
    whole = _as_a_whole(df) if df["table"].nunique() == 1 else ""
    fixed = _in_words(_everywhere(df))
    words = [summary if caption is None else caption, whole, fixed and f"All at {fixed}."]
    html = _Html(
        jinja2.Template(_TEMPLATE.read_text(encoding="utf-8"), autoescape=True).render(
            cells=cells(df),
            breakable=breakable,
            readings=[r for r in READINGS if (df["as"] == r).any()],
            caption=" ".join(filter(None, words)),
            badges=_BADGES,
            one_table=one_table,
            anchors=anchors,
            csv=csv_link(_flat(df), " ".join(["scorecard", *df["table"].unique()[:1]])),
        )
    )
    html.summary = summary
    return html


def cells(df: pd.DataFrame) -> list[dict[str, Any]]:
    """One record per printed cell: its place in words, its print, and by reading what is ours.

    Conditions that all cells share are left out. A note that holds for all readings is the cell's.
    """
    everywhere = _everywhere(df)
    by_key: dict[str, dict[str, Any]] = {}
    for key, row in zip(
        _keys(df), cast("list[dict[str, Any]]", df.to_dict("records")), strict=True
    ):
        own = {k: v for k, v in row["where"].items() if k not in everywhere}
        cell = by_key.setdefault(key, row | {"conditions": _in_words(own), "ours": {}})
        cell["anchor"] = "at-" + re.sub(r"[\W_]+", "-", key.partition("|")[2].lower()).strip("-")
        ours = {"number": _ours(row), "verdict": row["verdict"], "note": row["note"]}
        cell["ours"][row["as"]] = ours
    for cell in by_key.values():
        notes = [ours["note"] for ours in cell["ours"].values()]
        shared = len(notes) > 1 and len(set(notes)) == 1
        for ours in cell["ours"].values() if shared else ():
            ours["note"] = ""
        odd = cell["inconsistent"] and f"Inconsistent: {cell['inconsistent']}"
        cell["note"] = ". ".join(filter(None, [notes[0] if shared else "", odd]))
    return list(by_key.values())


def _everywhere(df: pd.DataFrame) -> dict[str, Value]:
    """The conditions that all cells share, if there are several."""
    every = [*{where_text(where): where for where in df["where"]}.values()]
    shared = every[0].items() if len(every) > 1 else ()
    return {k: v for k, v in shared if all(where.get(k) == v for where in every)}


def _in_words(where: Mapping[str, Value]) -> str:
    return ", ".join(
        where_text({k: v}).replace("=", " = ").replace("_", " ") for k, v in where.items()
    )


def _as_a_whole(df: pd.DataFrame) -> str:
    """The joint test of a table, in words; "" where there is none."""
    known = df.dropna(subset=["joint"]).groupby("as", sort=False)["joint"].first()
    shares = "; ".join(f"as {reading} {share:.2g}" for reading, share in known.items())
    return shares and (
        f"Share of our whole runs that lie as far out as the printed table does: {shares}."
    )


def _ours(row: Mapping[Any, Any]) -> str:
    if isnan(row["ours"]):
        return ""
    if not row["se"] > 0:
        several = f" (n = {row['replicates']})" if row["replicates"] > 1 else ""
        return f"{row['ours']:.6g}{several}"
    # Two significant digits of the error decide the digits of the mean.
    digits = max(0, 1 - int(np.floor(np.log10(row["se"]))))
    return f"{row['ours']:.{digits}f} ± {row['se']:.{digits}f} (n = {row['replicates']})"


def to_json(df: pd.DataFrame) -> list[dict[str, Any]]:
    """Objects ready for `json.dumps`: a number that is missing is None, an infinite one "inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not isfinite(value):
            return None if isnan(value) else str(value)
        return value

    return [{k: plain(row[k]) for k in _JSON} for row in df.to_dict("records")]


def write(df: pd.DataFrame, path: Path | str) -> None:
    """Store a scorecard as CSV, lossless: one line per cell and reading, in a stable order."""
    text = _flat(df[list(COLUMNS)]).to_csv(index=False, lineterminator="\n")
    files.write_atomic(Path(path), text.encode())


def _flat(df: pd.DataFrame) -> pd.DataFrame:
    known = [*COLUMNS, *(c for c in ("profile", "commit") if c in df)]
    return df[known].assign(where=df["where"].map(where_text))


def csv_of_runs(df: pd.DataFrame) -> str:
    """A link in which the card of `from_runs` lies as CSV, with the profile and commit behind it.

    Both are columns, and in the link's words; they are empty where no run counts.
    """
    known = [df.attrs["origins"].get(notebook, ("", "")) for notebook in df["notebook"]]
    labelled = df.assign(profile=[p for p, _ in known], commit=[c for _, c in known])
    profiles, commits = (sorted(set(labelled[c]) - {""}) for c in ("profile", "commit"))
    commit = f"commit {commits[0]}" if len(commits) == 1 else f"{len(commits)} commits"
    whose = f"{' and '.join(profiles)} profile, {commit}" if profiles else "none run"
    name = " ".join(["scorecard", *profiles, commit])
    return csv_link(_flat(labelled), name, f"CSV ({whose})")


def merged(card: pd.DataFrame, kept: pd.DataFrame, names: Container[str]) -> pd.DataFrame:
    """The cells of `card`, those of other notebooks than `names` as they were kept, where known."""
    own, old = (df.set_index(_keys(df) + "|" + df["as"]) for df in (card, kept))
    stay = ~own["notebook"].map(names.__contains__) & own.index.isin(old.index)
    both = pd.concat([own[~stay], old.loc[own.index[stay]]])
    return both.loc[own.index].reset_index(drop=True)


def read(path: Path | str) -> pd.DataFrame:
    """A scorecard that :func:`write` stored.

    Raises
    ------
    ValueError
        If the file has other columns.
    """
    df = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(df.columns) != list(COLUMNS):
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}; write it anew.")
    for column in _FLOATS:
        df[column] = [float(text) if text else nan for text in df[column]]
    df["where"] = df["where"].map(published.parse_where)
    return df.astype({"replicates": "int64"})

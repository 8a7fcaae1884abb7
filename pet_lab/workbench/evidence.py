"""What git keeps of the full runs, each with its commit: cells, a summary of rows, README's marks.

A run that was made at an older commit is kept all the same: it says what came out there, and
`reports/rows/runs.csv` names that commit. So runs can be made in one clone and kept in another.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pet_lab import files
from pet_lab.rows import summarise
from pet_lab.workbench import published, runs, scorecard, sweep
from pet_lab.workbench.runs import DataFingerprint, RunRecord
from pet_lab.workbench.workspace import Workspace

WIDTH = 116  # of the README's lines


def condensed(rows: pd.DataFrame) -> pd.DataFrame:
    """The summary that git keeps of a run's rows: metric, factors, mean, se and n of a setting."""
    factors = [
        str(c) for c in rows if c not in ("replicate", "value", "se", "replicates_n", "metric")
    ]
    table = summarise(rows, ["metric", *factors])
    return table.drop(columns="sd")


def summary_path(ws: Workspace, name: str) -> Path:
    """Where the summary of a notebook's full run is kept."""
    return ws.reports / "rows" / f"{name.replace('/', '-')}.csv"


def full_runs(ws: Workspace) -> pd.DataFrame:
    """What git keeps of each notebook's full run: commit, day, seconds by the clock and of CPU."""
    path = ws.reports / "rows" / "runs.csv"
    if not path.is_file():
        return pd.DataFrame()
    text = {"commit": str, "tree": str}  # 12e4567 is no number
    return pd.read_csv(path, index_col="notebook", dtype=text).fillna({"tree": ""})


def full_sentence(ws: Workspace) -> str:
    """When, at which commits and at which cost the full runs were made."""
    known = full_runs(ws)
    if known.empty:
        return "No full run is kept."
    days = sorted(set(known["day"]))
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    commits, minutes = ", ".join(dict.fromkeys(known["commit"])), known["cpu_s"].sum() / 60
    count = f"{len(known)} notebook{'s' if len(known) > 1 else ''}"
    changed = ", ".join(known.index[known["tree"] == "changed"])
    but = f"; the tree had uncommitted changes for {changed}" if changed else ""
    return f"Full runs of {count}, {when}, at {commits}: {minutes:.0f} minutes of CPU{but}."


def write_summary(ws: Workspace, records: Sequence[RunRecord]) -> None:
    """Keep the summary of the rows of a notebook's full runs, six digits a number."""
    name, known = records[0].notebook, full_runs(ws).T.to_dict()
    commits = dict.fromkeys(str(r.git.get("commit", "unknown"))[:7] for r in records)
    known_trees = {True: "changed", False: "clean"}
    trees = [known_trees.get(r.git.get("dirty", ""), "") for r in records]
    known[name] = {
        "commit": " ".join(commits),
        "tree": next(t for t in ("changed", "", "clean") if t in trees),
        "day": max(r.ended for r in records)[:10],
        "wall_s": round(sum(r.wall_s for r in records)),
        "cpu_s": round(sum(r.cpu_s for r in records)),
    }
    lines = pd.DataFrame.from_dict(known, orient="index").sort_index()
    target = summary_path(ws, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    factors = [n for n in runs.varied(records) if n != "seed"]
    parts = [
        pd.read_parquet(r.folder / runs.ROWS).assign(**{n: r.parameters[n] for n in factors})
        for r in records
    ]
    with files.replacing(summary_path(ws, "runs")) as stream:
        lines.to_csv(stream, index_label="notebook", lineterminator="\n")
    with files.replacing(target) as stream:
        table = condensed(pd.concat(parts))
        table.to_csv(stream, index=False, float_format="%.6g", lineterminator="\n")


def generated(ws: Workspace) -> dict[str, str]:
    """What stands in the README between marks: <!-- tally -->, <!-- shelf -->, <!-- runs -->."""
    card = scorecard.read(ws.reports / "scorecard.csv")
    shelf = card[card["notebook"].str.startswith("literature/")]
    lines = [
        "| publication | printed cells | reproduced as described | as published |",
        "|---|---|---|---|",
    ]
    for title, part in scorecard.by_publication(shelf, published.load(ws)).items():
        described = part[part["as"] == "described"]
        ran = part[(part["as"] == "published") & (part["verdict"] == "reproduced")]
        counts = [len(described), (described["verdict"] == "reproduced").sum(), len(ran) or "–"]
        lines.append("| " + " | ".join([title, *map(str, counts)]) + " |")
    return {
        "tally": scorecard.tally(card)["sentence"],
        "shelf": "\n".join(["", *lines]),
        "runs": full_sentence(ws),
    }


def keep(
    ws: Workspace, card: pd.DataFrame, names: Iterable[str], data: DataFingerprint | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Put the full runs of notebooks into reports/scorecard.csv, reports/rows/ and README's marks.

    `card` is `scorecard.from_runs` of the full profile. What is kept of other notebooks stays, as
    does a README without marks. Returns, by notebook, of what its runs are, and why it has none.
    """
    kept, missing = {}, {}
    for name in names:
        records, _, reason = scorecard.countable(ws, name, "full", stale=True)
        planned = {spec.run_id for spec in sweep.plan_profile(ws, name, "full")}
        more = len(planned - {record.run_id for record in records})
        if reason or more:
            missing[name] = reason or f"{more} of its {len(planned)} full runs are missing."
            continue
        write_summary(ws, records)
        line, now = full_runs(ws).loc[name], runs.fingerprints(ws, name)
        since = dict.fromkeys(why for r in records for why in runs.stale(r, now, data))
        kept[name] = f"{line['commit']}, {line['tree'] or 'unknown'} tree"
        if since:
            kept[name] += f"; since then {'; '.join(since)}"
    if kept:
        path = ws.reports / "scorecard.csv"
        if path.is_file():
            card = scorecard.merged(card, scorecard.read(path), kept)
        scorecard.write(card, path)
        _write_marks(ws)
    return kept, missing


def _write_marks(ws: Workspace) -> None:
    """Bring what stands between the README's marks up to date."""
    path = ws.root / "README.md"
    before = text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for mark, words in generated(ws).items():
        lines = words if mark == "shelf" else textwrap.fill(words, WIDTH)
        head, start, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, tail = rest.partition(f"<!-- /{mark} -->")
        if end:
            text = f"{head}{start}{lines}\n{end}{tail}"
    if text != before:
        files.write_atomic(path, text.encode())

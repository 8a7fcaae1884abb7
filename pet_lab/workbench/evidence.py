"""What git keeps of the full runs: a summary of the rows of each, and its commit, day and cost."""

from pathlib import Path

import pandas as pd

from pet_lab import files
from pet_lab.rows import summarise
from pet_lab.workbench import runs
from pet_lab.workbench.runs import RunRecord
from pet_lab.workbench.workspace import Workspace


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
    return pd.read_csv(path, index_col="notebook", dtype={"commit": str})  # 12e4567 is no number


def full_sentence(ws: Workspace) -> str:
    """When, at which commits and at which cost the full runs were made."""
    known = full_runs(ws)
    if known.empty:
        return "No full run is kept."
    days = sorted(set(known["day"]))
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    commits, minutes = ", ".join(dict.fromkeys(known["commit"])), known["cpu_s"].sum() / 60
    count = f"{len(known)} notebook{'s' if len(known) > 1 else ''}"
    return f"Full runs of {count}, {when}, at {commits}: {minutes:.0f} minutes of CPU."


def write_summary(ws: Workspace, record: RunRecord) -> None:
    """Keep the summary of a run's rows, six digits a number; a run that is not done is left out."""
    if not record.ok:
        return
    known = full_runs(ws).T.to_dict()
    known[record.notebook] = {
        "commit": str(record.git.get("commit", "unknown"))[:7],
        "day": str(record.ended)[:10],
        "wall_s": round(record.wall_s),
        "cpu_s": round(record.cpu_s),
    }
    lines = pd.DataFrame.from_dict(known, orient="index").sort_index()
    target = summary_path(ws, record.notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(summary_path(ws, "runs")) as stream:
        lines.to_csv(stream, index_label="notebook", lineterminator="\n")
    with files.replacing(target) as stream:
        table = condensed(pd.read_parquet(record.folder / runs.ROWS))
        table.to_csv(stream, index=False, float_format="%.6g", lineterminator="\n")

"""What the page of a sweep shows: the grid as a table, each metric against what was swept."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pet_lab import files
from pet_lab.rows import summarise
from pet_lab.workbench import explore, plots, runs, tables
from pet_lab.workbench.report import exporter
from pet_lab.workbench.runs import RunRecord

MOST_METRICS = 12  # with a section and pictures each
MOST_COLUMNS = 6  # of metrics in the table of the grid


def content(
    records: Sequence[RunRecord], rows: pd.DataFrame, links: Mapping[str, str]
) -> dict[str, Any]:
    """What the template needs: of runs, done or not, the rows of the done ones, and their pages."""
    swept = runs.varied(records)
    factors = list(dict.fromkeys([*(c for c in swept if c in rows), *explore.factors(rows)]))
    factors = [f for f in factors if f != "seed"]
    metrics = {str(m): part for m, part in rows.groupby("metric", sort=False)}
    columns, held = _by_run(metrics, [f for f in factors if f not in swept])
    settings = [[r.parameters.get(k, "–") for k in swept] for r in records]
    grid = [
        {
            "run": r.run_id,
            "link": links.get(r.run_id, ""),
            "settings": at,
            "state": files.duration(r.wall_s) if r.ok else r.state,
            "values": [_interval(c, r.run_id) for c in list(columns.values())[:MOST_COLUMNS]],
        }
        for r, at in zip(records[: plots.MOST_ROWS], settings, strict=False)
    ]
    sections = [
        _section(m, part, factors, swept) for m, part in list(metrics.items())[:MOST_METRICS]
    ]
    return {
        "varied": swept,
        "grid": grid,
        "numeric": [
            tables.is_number(pd.Series([r.parameters.get(k) for r in records])) for k in swept
        ],
        "csv": tables.csv_link(_wide(records, swept, columns), f"Grid over {' '.join(swept)}"),
        "heads": list(columns)[:MOST_COLUMNS],
        "held": held,
        "intervals": any("±" in value for line in grid for value in line["values"]),
        "unlinked": sum(r.ok and r.run_id not in links for r in records),
        "runs": len(records),
        "done": sum(r.ok for r in records),
        "rows": len(rows),
        "metrics": len(metrics),
        "sections": sections,
    }


def _by_run(
    metrics: Mapping[str, pd.DataFrame], within: Sequence[str]
) -> tuple[dict[str, pd.DataFrame], str]:
    """Mean and standard error of each metric by run, and at which settings in words.

    A factor that varies within runs is held at its first value: nothing is averaged over it.
    """
    columns, held = {}, dict[str, Any]()
    for metric, part in metrics.items():
        first = {f: part[f].iloc[0] for f in within if part[f].nunique(dropna=False) > 1}
        held |= {f: v for f, v in first.items() if f not in held}
        kept = explore.hold(part, first)
        columns[metric] = summarise(kept, ["run_id", "metric"]).set_index("run_id")
    words = ", ".join(f"{plots.label(f)} = {plots.number(v) or 'none'}" for f, v in held.items())
    return columns, words


def _wide(
    records: Sequence[RunRecord], swept: Sequence[str], columns: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """The whole grid as numbers: a row a run, three columns a metric."""
    ids = [r.run_id for r in records]
    facts: dict[str, Any] = {k: [r.parameters.get(k) for r in records] for k in swept}
    facts |= {
        "run": ids,
        "state": [r.state for r in records],
        "wall_s": [r.wall_s for r in records],
    }
    for metric, column in columns.items():
        mean, half = column["mean"].reindex(ids), plots.Z95 * column["se"].reindex(ids)
        parts = {metric: mean, f"{metric} low": mean - half, f"{metric} high": mean + half}
        facts |= {name: values.to_numpy() for name, values in parts.items()}
    return pd.DataFrame(facts)


def _interval(column: pd.DataFrame, run: str) -> str:
    if run not in column.index:
        return "–"
    mean, half = float(column["mean"][run]), plots.Z95 * float(column["se"][run])
    if not (half > 0 and math.isfinite(half)):
        return plots.number(mean)
    digits = max(0, 1 - math.floor(math.log10(half)))  # two digits of the error
    shown = [f"{v:,.{digits}f}" if digits < 7 else f"{v:.3g}" for v in (mean, half)]
    return " ± ".join(shown).replace("-", "−")


def _section(
    metric: str, rows: pd.DataFrame, factors: Sequence[str], swept: Sequence[str]
) -> dict[str, Any]:
    """One metric: a picture per swept parameter, another factor as lines, and the table of means.

    Nothing is averaged over a factor: what is neither axis nor line is held at its first value.
    """
    factors = [f for f in factors if rows[f].nunique(dropna=False) > 1]
    pictures = []
    for x in [f for f in factors if f in swept]:
        lines = [f for f in reversed(factors) if f != x and rows[f].nunique() <= len(plots.COLOURS)]
        hue = lines[0] if lines else None
        held = {f: rows[f].iloc[0] for f in factors if f not in (x, hue)}
        fig, what = explore.picture(rows, x=x, metric=metric, hue=hue, held=held)
        width = round(fig.get_figwidth() * 100)
        mime, _, uri = plots.render(fig)
        link = tables.download(uri, what, "SVG" if "svg" in mime else "PNG")
        pictures.append({"uri": uri, "width": width, "what": what, "link": link})
    table = summarise(rows, [*factors, "metric"]).drop(columns="metric")
    table = table.rename(columns={"n": "replicates"})
    shown = table.sort_values(factors).head(plots.MOST_ROWS) if factors else table
    left_out = f" (the first {len(shown)} of {len(table)} rows)" if len(shown) < len(table) else ""
    caption = f"Means of {plots.label(metric)} over replicates{left_out}"
    return {
        "name": plots.label(metric),
        "anchor": "metric-" + exporter.slug(metric),
        "pictures": pictures,
        "table": plots.table_html(shown, caption=caption),
    }

"""Tidy rows in, tidy tables out: what a notebook leaves behind, and how it is read again."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pet_lab import files
from pet_lab.checks import require
from pet_lab.rows import Claim
from pet_lab.workbench.errors import ResultsError

if TYPE_CHECKING:
    from pet_lab.workbench.runs import RunRecord
    from pet_lab.workbench.workspace import Workspace

_require = partial(require, error=ResultsError)
REQUIRED = ("replicate", "metric", "value")
READINGS = ("described", "published")
RESERVED = ("run_id", "notebook", "mean", "sd", "n", "out")  # readers add columns of these names
MIN_CELLS = 3  # of a hashed record
DATA_KEYS = ("name", "sha256", "kind")
DATA_KINDS = ("real", "stand-in", "own", "generated")


def write(
    rows: pd.DataFrame | Iterable[Mapping[str, Any]],
    out: str | Path,
    *,
    headline: str | Claim,
    privacy: Sequence[str | Claim] = (),
    simulation: bool = True,
    data: Sequence[Mapping[str, Any]] = (),
    counts: bool = True,
    guard_rows: Mapping[str, Any] | None = None,
    contributions: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Check the rows of a run, store them with their summary, and return them as stored.

    Parameters
    ----------
    rows : one row per setting, replicate and metric: factor columns of int, float, bool or str,
        `replicate` (int), `metric` (str), `value` (number), optional `se`, `reading` ("described"
        or "published") and `replicates_n`.
    out : the run's folder; "" when exploring by hand, and then nothing is written.
    headline : the verdict in one sentence.
    privacy : sentences on the guarantee: epsilon with its assumptions, or that there is none.
    simulation : bool
        Whether all parties ran on one machine, so that nothing here is a secure deployment.
    data : sequence of mapping
        For each data set: name, sha256, kind (real, stand-in, own or generated), licence, citation.
    counts : False where the rows must not be held against published numbers (stand-in or own data).
    guard_rows : mapping, optional
        `row_hashes` of the records that were read: a report that shows one of them is refused.
    contributions : DataFrame, optional
        Who stands behind the cells of tables of records, as `pet_lab.rows.contributions` counts
        them: `pet-lab release` checks cells by it. It never leaves the run's folder. `units` takes
        the place of `records` where that is a factor of the rows; it is `pet_lab.rows.NOBODY` for
        what was measured on made-up records, or on none. `differs` is, where cells are nested in
        others of the table, the fewest records by which one does.

    Raises
    ------
    ResultsError
        If the rows are not tidy, the summary is not complete, or the folder cannot be written.
    """
    frame = tidy(rows)
    for table in (frame, rows):  # what is drawn and scored of them knows it: see `against_print`
        if hasattr(table, "attrs"):
            table.attrs["counts"] = bool(counts)
    claims = [c.record for c in (headline, *privacy) if isinstance(c, Claim)]
    headline = headline.text if isinstance(headline, Claim) else headline
    one_line = isinstance(headline, str) and headline.strip() and "\n" not in headline.strip()
    _require(one_line, f"The headline must be one sentence on one line, but is {headline!r}.")
    sentences = not isinstance(privacy, str)
    spoken = [s.text if isinstance(s, Claim) else s for s in privacy]
    sentences = sentences and all(isinstance(s, str) and s.strip() for s in spoken)
    _require(sentences, "privacy must be a list of sentences, each a non-empty str.")
    for item in data:
        missing = ", ".join(k for k in DATA_KEYS if k not in item)
        _require(
            not missing,
            f"A data set lacks {missing}: expected name, sha256, kind, licence "
            "and citation; pass the provenance that data.load returns.",
        )
        _require(
            item["kind"] in DATA_KINDS,
            f"Data set {item['name']} is of kind {item['kind']!r}; "
            f"expected one of {', '.join(DATA_KINDS)}.",
        )
    summary = {
        "headline": headline.strip(),
        "claims": claims,
        "privacy": [s.strip() for s in spoken],
        "simulation": bool(simulation),
        "counts": bool(counts),
        "data": [dict(item) for item in data],
        "rows": len(frame),
        "metrics": sorted(frame["metric"].unique()),
    }
    if guard_rows is not None:
        summary["guard_rows"] = dict(guard_rows)
    if contributions is not None:
        lacking = {"metric", "records"} - set(contributions)
        known = {
            "metric",
            "records",
            "units",
            "total",
            "largest",
            "second",
            "negative",
            *frame.columns,
        }
        odd = sorted(map(str, lacking | (set(contributions) - known)))
        _require(not odd, f"contributions lack, or do not share with the rows: {', '.join(odd)}.")
    if str(out) == "":
        return frame
    folder = Path(out)
    try:
        if contributions is not None:
            with files.replacing(folder / "contributions.parquet") as stream:
                contributions.to_parquet(stream, index=False)
        with files.replacing(folder / "rows.parquet") as stream:
            frame.to_parquet(stream, index=False, compression="zstd")
        files.write_json(folder / "summary.json", summary)
    except OSError as error:
        raise ResultsError(files.why(error, "The run's folder")) from None
    return frame


def row_hashes(*frames: pd.DataFrame, most: int = 50_000) -> dict[str, Any]:
    """Salted hashes, at most `most` a table, by which the guard of reports knows the records again.

    A dict of `salt` (hex), `widths` (cells per hash) and `rows`, the hashes: of each whole record,
    and, as far as `most` allows, of each three neighbouring cells that occur once and are at least
    eight characters long, so that some columns are known again too. Records of fewer than three
    columns look like any summary: none is hashed. Whoever guesses a record can test the guess:
    the hashes stay in the run's folder.
    """
    from pet_lab.workbench.report.guard import row_hash

    salt, widths, known = secrets.token_hex(16), set(), set()
    for frame in frames:
        if frame.shape[1] < MIN_CELLS:  # so short a record cannot be told from a summary
            continue
        records = frame.astype(object).to_numpy()
        seen = Counter(row_hash(record, salt) for record in records[:most])
        widths.add(frame.shape[1])
        for start in range(frame.shape[1] - MIN_CELLS + 1):
            part = records[:, start : start + MIN_CELLS]
            if len(seen) + len(part) > most:
                break
            long = [cells for cells in part if len("".join(map(str, cells))) >= 8]
            hashes = Counter(row_hash(cells, salt) for cells in long)
            seen.update(h for h, n in hashes.items() if n == 1)
            widths.add(MIN_CELLS)
        known |= set(seen)
    return {"salt": salt, "widths": sorted(widths), "rows": sorted(known)}


def tidy(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A checked copy of `rows` with standard column types; a ResultsError says what is wrong."""
    frame = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    frame = frame.reset_index(drop=True)
    _check_columns(frame)
    for name in frame.columns:
        if name in ("replicate", "replicates_n"):
            numbers = _numbers(name, frame[name])
            whole = (numbers == numbers.round()).all()
            _require(whole, f"Column {name} must hold a whole number in every row.")
            frame[name] = numbers.astype("int64")
        elif name in ("value", "se"):
            frame[name] = _numbers(name, frame[name])
        else:
            frame[name] = _factor(name, frame[name])
    key = [c for c in frame.columns if c not in ("value", "se", "replicates_n")]
    twice = frame[frame.duplicated(key, keep=False)]
    if len(twice):
        example = ", ".join(f"{k}={v}" for k, v in twice[key].iloc[0].items())
        raise ResultsError(
            f"{len(twice)} rows share their factors, replicate and metric, such as "
            f"{example}; add the factor that tells them apart or number the replicates."
        )
    return frame


def _check_columns(frame: pd.DataFrame) -> None:
    _require(not frame.empty, "There are no rows: expected at least one row to store.")
    missing = ", ".join(name for name in REQUIRED if name not in frame)
    _require(
        not missing,
        f"Rows lack {missing}: expected one row per replicate and metric with the "
        f"columns {', '.join(REQUIRED)} beside the factors.",
    )
    for name, twice in zip(frame.columns, frame.columns.duplicated(), strict=True):
        plain = isinstance(name, str) and name.isidentifier()
        _require(
            plain, f"Column {name!r} is no plain name: use letters, digits and _, such as delay_s."
        )
        _require(
            name not in RESERVED,
            f"Column {name} is reserved for what readers add; rename it, "
            f"for example to {name}_given.",
        )
        _require(not twice, f"Column {name} is there twice; keep one.")
    readings = frame["reading"].unique() if "reading" in frame else ()
    unknown = {name for name in readings if str(name).partition(", ")[0] not in READINGS}
    for odd in sorted(map(str, unknown)):  # "published, WHO": the same by someone else, not scored
        raise ResultsError(f"Column reading holds {odd!r}; expected {' or '.join(READINGS)}.")
    named = all(isinstance(m, str) and m for m in frame["metric"].unique())
    _require(named, "Column metric must hold the name of a metric in every row.")


def _factor(name: str, column: pd.Series) -> pd.Series:
    from pandas.api import types

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if any(f(column) for f in (types.is_bool_dtype, types.is_integer_dtype, types.is_float_dtype)):
        return column
    _require(
        types.is_string_dtype(column) or column.dtype == object,
        f"Column {name} is of type {column.dtype}; expected int, float, bool or str.",
    )
    kinds = set(map(type, column))
    if all(issubclass(kind, str) for kind in kinds):
        return column.astype(object)
    if kinds <= {bool} or kinds <= {int, float}:
        return column.infer_objects()
    odd = next(value for value in column if not isinstance(value, str))
    raise ResultsError(
        f"Column {name} holds {odd!r} beside text or is of a type that cannot be stored; "
        'expected int, float, bool or str in all rows (a missing text is "").'
    )


def _numbers(name: str, column: pd.Series) -> pd.Series:
    from pandas.api import types

    numeric = types.is_numeric_dtype(column) or all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in column
    )
    if not numeric or types.is_complex_dtype(column):
        odd = next((v for v in column if not isinstance(v, int | float)), column.iloc[0])
        raise ResultsError(
            f"Column {name} holds {odd!r}; expected numbers (NaN where there is none)."
        )
    return column.astype("float64")


def read(ws: Workspace, notebook: str, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Rows of all done runs of a notebook (full name or unique last part), or of `run_ids`.

    A DataFrame with `run_id`, the run's parameters as columns where the rows have none of that name
    (a list parameter as JSON text), and the rows; empty if there are no runs. Rows whose file does
    not have the hash in run.json are not read.
    """
    from pet_lab.workbench import notebooks, runs

    name = notebooks.resolve(ws, notebook)
    wanted = None if run_ids is None else set(run_ids)
    parts = []
    for record in runs.records(ws, name):
        if record.ok and (wanted is None or record.run_id in wanted):
            frame = pd.read_parquet(record.folder / runs.ROWS)
            added = {"run_id": record.run_id}
            for key, value in record.parameters.items():
                if key not in frame:
                    added[key] = json.dumps(value) if isinstance(value, list) else value
            frame = frame.assign(**added)
            parts.append(frame[[*added, *(c for c in frame.columns if c not in added)]])
    if not parts:
        return pd.DataFrame(columns=["run_id", *REQUIRED])
    return pd.concat(parts, ignore_index=True)


def summary(run: RunRecord | Path) -> dict[str, Any]:
    """What `write` stored beside the rows of a run, given by its record or folder.

    Keys: headline, privacy, simulation, counts, data, rows, metrics. ResultsError if there is none.
    """
    folder = run if isinstance(run, Path) else run.folder
    try:
        return json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ResultsError(
            f"Run {folder.name} has no readable summary; run its notebook again."
        ) from None


def against_print(rows: pd.DataFrame) -> bool:
    """Whether rows may be held against print: not those of a run that does not count."""
    return bool(rows.attrs.get("counts", True))


def takeaways(claims: Iterable[Claim]) -> None:
    """Show claims as a list: what these rows bear out, and what they do not."""
    from IPython.display import Markdown, display

    claims = list(claims)
    text = Markdown("\n".join(f"* {claim.text}" for claim in claims))
    display(text, metadata={"claims": [claim.record for claim in claims]})

"""Tidy rows in, tidy tables out: what a notebook leaves behind, and how it is read again."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pet_lab import files
from pet_lab.rows import Claim
from pet_lab.workbench.errors import ResultsError

if TYPE_CHECKING:
    import pandas as pd

    from pet_lab.workbench.runs import RunRecord
    from pet_lab.workbench.workspace import Workspace

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
    privacy: Sequence[str] = (),
    simulation: bool = True,
    data: Sequence[Mapping[str, Any]] = (),
    counts: bool = True,
    guard_rows: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Check the rows of a run and store them with their summary; the notebook's last call.

    Parameters
    ----------
    rows : DataFrame or records
        One row per setting, replicate and metric: factor columns of int, float, bool or str,
        `replicate` (int), `metric` (str), `value` (number), optional `se`, `reading`
        ("described" or "published") and `replicates_n`.
    out : str or Path
        The run's folder; "" when exploring by hand, and then nothing is written.
    headline : str or Claim
        The verdict in one sentence.
    privacy : sequence of str
        Sentences on the guarantee: epsilon with its assumptions, or that there is none.
    simulation : bool
        Whether all parties ran on one machine, so that nothing here is a secure deployment.
    data : sequence of mapping
        For each data set: name, sha256, kind (real, stand-in, own or generated), licence, citation.
    counts : bool
        False where the rows must not be held against published numbers (stand-in or own data).
    guard_rows : mapping, optional
        `row_hashes` of the records that were read: a report that shows one of them is refused.

    Returns
    -------
    DataFrame: the rows as stored.

    Raises
    ------
    ResultsError
        If the rows are not tidy, the summary is not complete, or the folder cannot be written.
    """
    frame = tidy(rows)
    summary = _summary(
        frame,
        headline=headline.text if isinstance(headline, Claim) else headline,
        privacy=privacy,
        simulation=simulation,
        data=data,
        counts=counts,
    )
    if guard_rows is not None:
        summary["guard_rows"] = dict(guard_rows)
    if str(out) == "":
        return frame
    folder = Path(out)
    try:
        with files.replacing(folder / "rows.parquet") as stream:
            frame.to_parquet(stream, index=False, compression="zstd")
        files.write_json(folder / "summary.json", summary)
    except OSError as error:
        raise ResultsError(files.why(error, "The run's folder")) from None
    return frame


def row_hashes(frame: pd.DataFrame, *, most: int = 50_000) -> dict[str, Any]:
    """Salted hashes by which the guard of reports knows the records of a frame again.

    Parameters
    ----------
    frame : DataFrame
        With fewer than three columns nothing is hashed: such records look like any summary.
    most : int
        Largest number of hashes.

    Returns
    -------
    dict of `salt` (hex), `widths` (cells per hash) and `rows` (hashes): of each whole record, and,
    as far as `most` allows, of each three neighbouring cells that occur once and are at least
    eight characters long, so that some columns are known again too. Whoever guesses a record can
    test the guess: the hashes stay in the run's folder.
    """
    from pet_lab.workbench.report.guard import row_hash

    salt = secrets.token_hex(16)
    if frame.shape[1] < MIN_CELLS:  # so short a record cannot be told from a summary
        return {"salt": salt, "widths": [], "rows": []}
    records = frame.astype(object).to_numpy()
    seen = Counter(row_hash(record, salt) for record in records[:most])
    widths = {frame.shape[1]}
    for start in range(frame.shape[1] - MIN_CELLS + 1):
        part = records[:, start : start + MIN_CELLS]
        if len(seen) + len(part) > most:
            break
        long = [cells for cells in part if len("".join(map(str, cells))) >= 8]
        hashes = Counter(row_hash(cells, salt) for cells in long)
        seen.update(h for h, n in hashes.items() if n == 1)
        widths.add(MIN_CELLS)
    return {"salt": salt, "widths": sorted(widths), "rows": sorted(seen)}


def tidy(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A checked copy of `rows` with standard column types.

    Raises
    ------
    ResultsError
        With what is wrong and how to mend it.
    """
    import pandas as pd

    frame = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    frame = frame.reset_index(drop=True)
    _check_columns(frame)
    _check_metrics(frame)
    for name in frame.columns:
        if name not in ("replicate", "value", "se", "replicates_n"):
            frame[name] = _factor(name, frame[name])
    frame["replicate"] = _integers("replicate", frame["replicate"])
    if "replicates_n" in frame:
        frame["replicates_n"] = _integers("replicates_n", frame["replicates_n"])
    for name in ("value", "se"):
        if name in frame:
            frame[name] = _numbers(name, frame[name])
    key = [c for c in frame.columns if c not in ("value", "se", "replicates_n")]
    twice = frame.duplicated(key, keep=False)
    if twice.any():
        example = ", ".join(f"{k}={v}" for k, v in frame.loc[twice, key].iloc[0].items())
        raise ResultsError(
            f"{int(twice.sum())} rows share their factors, replicate and metric, such as "
            f"{example}; add the factor that tells them apart or number the replicates."
        )
    return frame


def _check_columns(frame: pd.DataFrame) -> None:
    if frame.empty:
        raise ResultsError("There are no rows: expected at least one row to store.")
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise ResultsError(
            f"Rows lack {', '.join(missing)}: expected one row per replicate and metric with the "
            f"columns {', '.join(REQUIRED)} beside the factors."
        )
    bad = [c for c in frame.columns if not (isinstance(c, str) and c.isidentifier())]
    if bad:
        raise ResultsError(
            f"Column {bad[0]!r} is no plain name: use letters, digits and _, such as delay_s."
        )
    reserved = [c for c in frame.columns if c in RESERVED]
    if reserved:
        raise ResultsError(
            f"Column {reserved[0]} is reserved for what readers add; rename it, "
            f"for example to {reserved[0]}_given."
        )
    double = frame.columns[frame.columns.duplicated()]
    if len(double):
        raise ResultsError(f"Column {double[0]} is there twice; keep one.")


def _check_metrics(frame: pd.DataFrame) -> None:
    if "reading" in frame:
        odd = set(frame["reading"].unique()) - set(READINGS)
        if odd:
            raise ResultsError(
                f"Column reading holds {sorted(map(str, odd))[0]!r}; "
                f"expected {' or '.join(READINGS)}."
            )
    if not all(isinstance(m, str) and m for m in frame["metric"].unique()):
        raise ResultsError("Column metric must hold the name of a metric in every row.")


def _factor(name: str, column: pd.Series) -> pd.Series:
    import pandas as pd
    from pandas.api import types

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if (
        types.is_bool_dtype(column)
        or types.is_integer_dtype(column)
        or types.is_float_dtype(column)
    ):
        return column
    if types.is_string_dtype(column) or column.dtype == object:
        odd = [value for value in column if not isinstance(value, str)]
        if not odd:
            return column.astype(object)
        kinds = {type(v) for v in column}
        if kinds <= {bool} or kinds <= {int} or kinds <= {int, float}:
            return column.infer_objects()
        raise ResultsError(
            f"Column {name} holds {odd[0]!r} beside text or is of a type that cannot be stored; "
            'expected int, float, bool or str in all rows (a missing text is "").'
        )
    raise ResultsError(
        f"Column {name} is of type {column.dtype}; expected int, float, bool or str."
    )


def _numbers(name: str, column: pd.Series) -> pd.Series:
    from pandas.api import types

    numeric = types.is_numeric_dtype(column) or all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in column
    )
    if not numeric or types.is_complex_dtype(column):
        odd = next((v for v in column if not isinstance(v, (int, float))), column.iloc[0])
        raise ResultsError(
            f"Column {name} holds {odd!r}; expected numbers (NaN where there is none)."
        )
    return column.astype("float64")


def _integers(name: str, column: pd.Series) -> pd.Series:
    numbers = _numbers(name, column)
    if not (numbers == numbers.round()).all():
        raise ResultsError(f"Column {name} must hold a whole number in every row.")
    return numbers.astype("int64")


def _summary(
    frame: pd.DataFrame,
    *,
    headline: str,
    privacy: Sequence[str],
    simulation: bool,
    data: Sequence[Mapping[str, Any]],
    counts: bool,
) -> dict[str, Any]:
    if not isinstance(headline, str) or not headline.strip() or "\n" in headline.strip():
        raise ResultsError(f"The headline must be one sentence on one line, but is {headline!r}.")
    if isinstance(privacy, str) or not all(isinstance(s, str) and s.strip() for s in privacy):
        raise ResultsError("privacy must be a list of sentences, each a non-empty str.")
    items = []
    for item in map(dict, data):
        missing = [k for k in DATA_KEYS if k not in item]
        if missing:
            raise ResultsError(
                f"A data set lacks {', '.join(missing)}: expected name, sha256, kind, licence "
                "and citation; pass the provenance that data.load returns."
            )
        if item["kind"] not in DATA_KINDS:
            raise ResultsError(
                f"Data set {item['name']} is of kind {item['kind']!r}; "
                f"expected one of {', '.join(DATA_KINDS)}."
            )
        items.append(item)
    return {
        "headline": headline.strip(),
        "privacy": [s.strip() for s in privacy],
        "simulation": bool(simulation),
        "counts": bool(counts),
        "data": items,
        "rows": len(frame),
        "metrics": sorted(frame["metric"].unique()),
    }


def read(ws: Workspace, notebook: str, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Rows of all done runs of a notebook, or of those in `run_ids`.

    Parameters
    ----------
    ws : Workspace
    notebook : str
        Full name or unique last part.
    run_ids : iterable of str, optional

    Returns
    -------
    DataFrame with `run_id`, the run's parameters as columns where the rows have none of that name
    (a list parameter as JSON text), and the rows. Empty if there are no runs. Rows whose file does
    not have the hash in run.json are not read.
    """
    import pandas as pd

    from pet_lab.workbench import notebooks, runs

    name = notebooks.resolve(ws, notebook)
    wanted = None if run_ids is None else set(run_ids)
    parts = []
    for record in runs.records(ws, name):
        if record.ok and record.folder and (wanted is None or record.run_id in wanted):
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

    Keys: headline, privacy, simulation, counts, data, rows, metrics.

    Raises
    ------
    ResultsError
        If the run has none.
    """
    folder = run if isinstance(run, Path) else run.folder
    try:
        if folder is None:
            raise OSError
        return json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ResultsError(
            f"Run {getattr(folder, 'name', '')} has no readable summary; run its notebook again."
        ) from None


def takeaways(claims: Iterable[Claim]) -> None:
    """Show claims as a list: what these rows bear out, and what they do not."""
    from IPython.display import Markdown, display

    display(Markdown("\n".join(f"* {claim.text}" for claim in claims)))

"""Words and tables: what a column is called, how a number is written, a table on the page."""

import base64
import html
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import one_of, require
from pet_lab.rows import Claim, symbols

Format = str | Callable[[Any], str]

LABELS: dict[str, str] = {
    # what a column is called on an axis or in a table head, with its unit; studies add theirs
    "epsilon": "privacy budget ε",
    "delta": "δ",
    "accuracy": "accuracy (share right)",
    "precision": "precision",
    "recall": "recall",
    "recall_actual": "recall, actual",
    "recall_estimated": "recall, estimated",
    "fpr": "false positive rate",
    "tpr": "true positive rate",
    "auc": "area under the ROC curve",
    "se": "standard error",
    "sd": "standard deviation",
    "replicates": "replicates",
    "error_rate": "share of records with a typo",
    "cpu_s": "CPU time (s)",
    "wall_s": "wall time (s)",
    "batch_size": "batch size (records)",
    "learning_rate": "learning rate",
    "clip": "clipping norm",
    "epochs": "epochs",
}


def label(name: str) -> str:
    """Words for a column: from `LABELS`, else the name with its underscores opened up."""
    return LABELS.get(name, str(name).replace("_", " "))


def number(value: Any) -> str:
    """A value for a table or a tick: four significant digits, thousands separated, "∞" and "–"."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, (int, float, np.integer, np.floating)):
        return str(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        text = "∞" if value > 0 else "-∞"
    else:
        whole = abs(float(value)) >= 1e3 or float(value).is_integer()
        text = f"{value:,.0f}" if whole else f"{value:.4g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


KINDS = {
    "aggregate": "each row sums up many records, runs or replicates",
    "schema": "each row describes a column",
    "synthetic": "made-up or generated records, of no real person or firm",
}
MOST_ROWS = 400  # a table of summaries that is longer is most likely a table of records


def table(
    frame: pd.DataFrame,
    *,
    caption: str | Claim,
    formats: Mapping[str, Format] | None = None,
    kind: str = "aggregate",
    index: bool = False,
) -> None:
    """Display a frame as an accessible table.

    Parameters
    ----------
    caption : what the table says; not empty. Numbers that no parameter holds come with a claim.
    formats : mapping from column to format spec (".3f", "{:.1%}") or function, optional
        Numbers in other columns get four significant digits.
    kind : {"aggregate", "schema", "synthetic"}
        Why it is safe to show. Reports refuse a table that does not say so, hence also a bare frame
        as the last value of a cell; real records have no kind.
    index : whether the index is a (leading) column.

    Raises
    ------
    ValueError
        On an empty caption, an unknown kind, or a table of more than `MOST_ROWS` rows; of a schema
        the first are shown, and the caption says so.
    """
    frame = frame.reset_index() if index else frame
    metadata, caption = traced(caption), sentence(caption, "caption")
    if kind == "schema" and len(frame) > MOST_ROWS:  # as many columns as a user's table has
        caption = f"{caption} The first {MOST_ROWS} of {len(frame)}."
        frame = frame.head(MOST_ROWS)
    markup = table_html(frame, caption=caption, formats=formats, kind=kind)
    display(
        {"text/html": markup, "text/plain": f"{caption}\n{frame.to_string(index=False)}"}, metadata
    )


def table_html(
    frame: pd.DataFrame,
    *,
    caption: str,
    formats: Mapping[str, Format] | None = None,
    kind: str = "aggregate",
) -> str:
    """HTML of `table`: caption, scoped heads, numbers to the right, scrolling when too wide."""
    one_of(KINDS, kind=kind, hint="real records have none")
    require(
        len(frame) <= MOST_ROWS,
        f"a table of {len(frame)} rows is no summary; show at most {MOST_ROWS} or draw it.",
    )
    title, formats = html.escape(sentence(caption, "caption")), dict(formats or {})
    names = [" · ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in frame.columns]
    unknown = sorted(set(formats) - set(names))
    require(not unknown, f"formats name no column: {unknown}; columns are {names}.")
    head, columns = "", []
    for position, name in enumerate(names):
        values = frame.iloc[:, position]
        style = f' style="text-align:{"right" if is_number(values) else "left"}"'
        head += f'<th scope="col"{style}>{breakable(label(name))}</th>'
        columns.append([f"<td{style}>{_cell(v, formats.get(name))}</td>" for v in values])
    body = "".join(f"<tr>{''.join(cells)}</tr>\n" for cells in zip(*columns, strict=True))
    return (
        f'<div class="pl-table" role="group" tabindex="0" aria-label="{title}" '
        f'style="overflow-x:auto"><table data-pet-lab="{kind}"><caption>{title}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"
        f'<p class="get">{csv_link(frame, caption)}</p></div>'
    )


def csv_link(frame: pd.DataFrame, caption: str, text: str = "CSV") -> str:
    """A link in which the whole table lies as CSV: to ten digits, however it is shown."""
    content = frame.to_csv(index=False, lineterminator="\r\n", float_format="%.10g")
    coded = base64.b64encode(content.encode()).decode()
    return download(f"data:text/csv;charset=utf-8;base64,{coded}", caption, text)


def download(uri: str, caption: str, text: str) -> str:
    """A link that stores the data of its URI in a file named by the caption; `text` is its kind."""
    plain = re.sub(r"[^a-z0-9]+", "-", caption.lower())[:60].strip("-") or "data"
    name = f"{plain}.{text.partition(' ')[0].lower()}"
    words = html.escape(f"{text}: {caption}", quote=True)
    return f'<a class="get" download="{name}" href="{uri}" aria-label="{words}">{text}</a>'


def breakable(text: str) -> str:
    """The text as HTML; a name such as "target.recall" may be broken where its parts meet.

    >>> breakable("auc.train & 0.5")
    'auc.<wbr/>train &amp; 0.5'
    """
    return re.sub(r"(?<=\w)([._])(?=[A-Za-z])", r"\1<wbr/>", html.escape(text))


def _cell(value: Any, spec: Format | None) -> str:
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    if spec is None or missing:
        return breakable(number(value))
    if callable(spec):
        return html.escape(spec(value))
    return html.escape(spec.format(value) if "{" in spec else format(value, spec))


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers; yes and no are none."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def traced(*texts: str | Claim) -> dict[str, Any]:
    """Metadata of an output whose texts are claims: their templates and values."""
    claims = [text.record for text in texts if isinstance(text, Claim)]
    return {"claims": claims} if claims else {}


def sentence(text: Any, name: str) -> str:
    """The text on one line; ValueError where there is none."""
    text = text.text if isinstance(text, Claim) else text
    refusal = f"{name} must say in words what the picture shows, got {text!r}."
    require(isinstance(text, str) and text.strip(), refusal)
    return symbols(" ".join(text.split()))


def display(data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Put {mime type: content} on the page; a script prints its text."""
    from IPython import get_ipython
    from IPython.display import display as show

    if get_ipython() is None:  # a script: words, not megabytes of markup
        print(data["text/plain"])
    else:
        show(dict(data), metadata=dict(metadata or {}), raw=True)

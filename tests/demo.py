"""A workspace with finished, failed and missing runs, made without starting a kernel."""

import contextlib
import io
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
import pandas as pd

from pet_lab.rows import summarise
from pet_lab.workbench import explore, plots, published, results, runs, scorecard, tables
from pet_lab.workbench.workspace import Workspace

PARAMETERS = """\
error_rate: float = 0.2  # share of records with a perturbed date and value
thresholds: list[float] = [0.5, 0.8]  # Dice similarity from which two records are a match
replicates: int = 100  # independent blocks of 100 × 100 records
seed: int = 7  # root of every random stream
out: str = ""  # run folder; empty when exploring by hand
"""

CELLS = [
    "# Exact linkage with typos: does the corrected total remove the bias?\n\n"
    "**Claim.** At 20 % typos the naive count is low by about 20 %; the corrected count is not "
    "biased.\n\n**Source.** Table 2.4 of the "
    "[report](https://statswiki.unece.org/display/HLGBAS). See also "
    "[the other track](../private_ml/training.ipynb) and [a local file](../README.md).",
    ("parameters", PARAMETERS),
    "import numpy as np\nimport pandas as pd",
    "from pet_lab import linkage\nfrom pet_lab.workbench import explore, plots, results, scorecard",
    "## Data\n\nEvery record is a transaction with an identifier $b$, a date and a value $v_i$, "
    "written by `data.generate`; it costs \\$5 or $6, and `$x$` in code stays code.",
    "plots.table(frame.head(3), caption='Three made-up records', kind='synthetic')",
    "## Method\n\nLet $N$ be the number of records and $\\hat r$ the estimated recall. Then\n\n"
    "$$\\hat T = \\frac{1}{\\hat r} \\sum_{i=1}^{N} v_i \\, \\mathbf{1}[s_i \\ge \\tau], \\qquad "
    "\\operatorname{Var}(\\hat T) \\approx \\frac{\\sigma^2}{N \\hat r^2}.$$\n\n"
    "| symbol | meaning |\n|---|---|\n| $\\tau$ | threshold of the Dice similarity |\n"
    "| $s_i$ | similarity of record $i$ to its best match |\n"
    "| $\\hat r$ | estimated recall, $0 < \\hat r \\le 1$ |\n",
    "rows = linkage.simulate(error_rate, thresholds, replicates, seed)\n"
    "# the same streams for every threshold: differences are paired\n"
    'print(f"{len(rows):,} rows")',
    "## Result",
    "scorecard.show(scorecard.score(rows, '2.4'))",
    "### By threshold\n\nThe bias shows at every threshold, more at the lower ones.",
    "plots.points(rows, x='threshold', metric='recall_actual', hue='method', alt=..., caption=...)",
    "plots.table(summarise(rows, ['threshold', 'method', 'metric']), caption=...)",
    "## Matrices",
    "plots.heatmap({'actual': a, 'estimated': b}, alt=..., caption=...)",
    "## Takeaways\n\n- The corrected total is within **0.5 %** of the truth at every threshold.\n"
    "- The naive total misses one record in five.\n- Standard errors are right too.",
    "## Differences from the source\n\n> The source draws typos once; here every replicate draws "
    "its own, which widens the intervals by about a tenth.",
    "results.write(rows, out, headline=...)",
    "## Explore\n\nWhat does a *lower* threshold cost?",
    "explore.rows(rows, x='threshold')\nexplore.call(study.power, {'n': (1, 99)}, out=out)",
]


def rows_of(error_rate: float, seed: int, replicates: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng([seed, round(error_rate * 100)])
    records = []
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        for method, bias in (("naive", -error_rate), ("corrected", 0.0)):
            for replicate in range(replicates):
                base = {"error_rate": error_rate, "threshold": threshold, "method": method}
                base["replicate"] = replicate
                recall = 1 + bias - 0.1 * (threshold - 0.5) + rng.normal(0, 0.03)
                records += [
                    {**base, "metric": "recall_actual", "value": recall},
                    {**base, "metric": "total", "value": 1e6 * recall + rng.normal(0, 1e4)},
                ]
    return pd.DataFrame(records)


@contextlib.contextmanager
def captured():
    """Outputs that the display functions would have put into a cell."""
    outputs = []

    def keep(data, metadata=None):
        outputs.append(
            nbformat.v4.new_output("display_data", data=dict(data), metadata=dict(metadata or {}))
        )

    with mock.patch.object(tables, "display", keep):
        yield outputs


def executed(rows: pd.DataFrame, scored: pd.DataFrame) -> dict[int, list]:
    """Outputs of the demo's cells, by their place."""
    summary = summarise(rows, ["threshold", "method", "metric"])
    outputs: dict[int, list] = {}
    with captured() as outputs[5]:
        frame = pd.DataFrame(
            {"id": ["B17", "B42", "B99"], "value": [1234.5, 99.0, 1e6], "typo": [True, False, True]}
        )
        plots.table(frame, caption="Three made-up records with $v_i$ in euros", kind="synthetic")
    outputs[7] = [
        nbformat.v4.new_output("stream", name="stdout", text=f"{len(rows):,} rows\n"),
        nbformat.v4.new_output("stream", name="stderr", text="/home/someone/x.py: Warning\n"),
    ]
    html = str(scorecard.show(scored))
    outputs[9] = [
        nbformat.v4.new_output(
            "execute_result", data={"text/html": html, "text/plain": "-"}, execution_count=4
        )
    ]
    with captured() as outputs[11]:
        plots.points(
            rows,
            x="threshold",
            metric="recall_actual",
            hue="method",
            printed=pd.DataFrame({"threshold": [0.8], "printed": ["0.80"]}),
            reference={"share without a typo": 0.8},
            alt="Line chart of recall against threshold, one line for the naive and one for the "
            "corrected method. Both fall slowly; the naive one lies lower by the error rate.",
            caption="The naive method loses one error rate of recall at **every** $\\tau$.",
        )
    with captured() as outputs[12]:
        plots.table(
            summary[summary["metric"] == "total"],
            caption="Totals with their standard errors",
            formats={"mean": "{:,.0f}", "sd": "{:,.0f}", "se": "{:,.0f}"},
        )
    with captured() as outputs[14]:
        names = [f"column {c}" for c in "abcdefgh"]
        rng = np.random.default_rng(1)
        maps = {
            title: pd.DataFrame(np.corrcoef(rng.normal(size=(8, 30))), names, names)
            for title in ("actual", "estimated")
        }
        plots.heatmap(
            maps,
            alt="Two heat maps of correlations, actual and estimated, with the same pattern.",
            caption="The estimate keeps the pattern of correlations.",
        )
    with captured() as outputs[len(CELLS) - 1]:
        explore.rows(rows, x="threshold", hue="method", out="a/run")
        sliders = {
            "n": (1, 99, 1, 20),
            "shift": (0.0, 1.0),
            "known": True,
            "test": ["t", "z", "sign"],
        }
        explore.call(power, sliders, caption="Power of a made-up test", out="a/run")
    return outputs


def power(n: int, shift: float, known: bool, test: str) -> dict[str, float]:
    if test == "sign" and n < 5:
        raise ValueError("A sign test needs 5 records or more, got <few>.")
    loss = 0.64 if test == "sign" else 1.0
    return {"z": shift * np.sqrt(n * loss), "records": n if known else n - 1}


def notebook(title: str | None = None, outputs: dict[int, list] | None = None):
    cells = []
    for place, cell in enumerate(CELLS):
        if isinstance(cell, tuple):
            new = nbformat.v4.new_code_cell(cell[1], metadata={"tags": [cell[0]]})
        elif cell.lstrip("*").startswith(("#", "**")) and not cell.startswith("# the"):
            text = cell
            if place == 0 and title:
                text = f"# {title}\n" + cell.partition("\n")[2]
            new = nbformat.v4.new_markdown_cell(text)
        else:
            new = nbformat.v4.new_code_cell(cell, outputs=(outputs or {}).get(place, []))
        cells.append(new)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def save(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, path)
    return path


def add_run(
    ws: Workspace,
    name: str,
    content,
    rows: pd.DataFrame,
    *,
    parameters=None,
    profile="quick",
    **summary,
):
    """Put a finished run of `name` into the workspace, as the runner would."""
    from pet_lab import files
    from pet_lab.workbench import notebooks

    params = notebooks.parameters(notebooks.path(ws, name))
    spec = runs.RunSpec.of(name, notebooks.check(params, parameters or {}), profile)
    folder = spec.folder(ws)
    save(folder / runs.NOTEBOOK, content)
    summary.setdefault("headline", "The corrected total is unbiased; the naive one is low by 20 %.")
    with contextlib.redirect_stdout(io.StringIO()):
        results.write(rows, folder, **summary)
    record = runs.of_spec(
        spec,
        ws,
        state=runs.DONE,
        started="2026-11-20T10:00:00.000+00:00",
        ended="2026-11-20T10:00:42.000+00:00",
        wall_s=42.3,
        cpu_s=61.0,
        versions=runs.versions(),
        git={"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        fingerprints=runs.fingerprints(ws, name) | {"margins": published.margins(ws, name)},
        data=summary.get("data", []),
        hashes={n: files.sha256_file(folder / n) for n in (runs.NOTEBOOK, runs.ROWS, runs.SUMMARY)},
    )
    files.write_json(folder / runs.RECORD, record.to_json())
    return record


def add_failure(ws: Workspace, name: str, error: dict, **parameters):
    from pet_lab import files
    from pet_lab.workbench import notebooks

    params = notebooks.parameters(notebooks.path(ws, name))
    spec = runs.RunSpec.of(name, notebooks.check(params, parameters), "quick")
    spec.folder(ws).mkdir(parents=True)
    record = runs.of_spec(spec, ws, state=runs.FAILED, error=error)
    files.write_json(spec.folder(ws) / runs.RECORD, record.to_json())


GLOSSARY = """\
# Glossary

## Privacy

**Epsilon**, $\\varepsilon$: how much one person's data can change what is published; see
[the typos](../notebooks/psi/typos.ipynb) and [a local file](first-notebook.md).

## Linkage

| Term | Meaning |
|---|---|
| recall | share of true matches that are linked |
"""

PRINTED = """\
id = "{id}"
title = "{title}"
source = "Report on input privacy, table {id}"
place = "page 12"
licence = "CC BY 4.0"
notebook = "{notebook}"
keys = ["error_rate", "threshold", "method"]
readings = ["described"]
metrics.recall_actual = {{ unit = "share", kind = "mean", repetitions = 100, margin = 0.02 }}
{cells}
"""


def workspace(root: Path) -> Workspace:
    """The demo: a report, a sweep, a stand-in, a failure, and a notebook that never ran."""
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')
    ws = Workspace(root)
    (root / "docs").mkdir()
    (root / "docs" / "glossary.md").write_text(GLOSSARY)
    own = root / "pet_lab" / "published" / "demo"
    own.mkdir(parents=True)
    for table, target, numbers in (
        ("2.4", "psi/typos", (("0.80", "0.60"), ("0.99", "0.97"))),
        ("3.2", "private_ml/training", (("0.82", "0.71"), ("0.9", "0.5"))),
    ):
        cells = "".join(
            f'[[cells]]\nerror_rate = 0.2\nthreshold = {t}\nmethod = "{m}"\nrecall_actual = "{v}"\n'
            for m, line in zip(("naive", "corrected"), numbers, strict=True)
            for t, v in zip((0.5, 0.8), line, strict=True)
        )
        title = "Recall by comparison and estimator, with standard errors over 100 replicates"
        (own / f"table_{table}.toml").write_text(
            PRINTED.format(id=table, title=title, notebook=target, cells=cells)
        )
    save(ws.notebooks / "psi" / "typos.ipynb", notebook())
    save(ws.notebooks / "psi" / "protocol.ipynb", notebook("The protocol, message by message"))
    save(ws.notebooks / "private_ml" / "training.ipynb", notebook("DP training or DP data?"))
    (ws.notebooks / "psi" / "sweep.toml").write_text(
        "[typos.quick.grid]\nerror_rate = [0.2, 0.1, 0.3]\n"
        "[typos.full.grid]\nerror_rate = [0.2, 0.1, 0.3, 0.05, 0.4]\n"
    )
    from pet_lab.workbench import published

    tables = published.load(ws)
    for rate in (0.1, 0.2, 0.3):
        rows = rows_of(rate, 7)
        scored = scorecard.score(rows, tables[:1], contradictions=())
        add_run(
            ws,
            "psi/typos",
            notebook(outputs=executed(rows, scored)),
            rows,
            parameters={"error_rate": rate},
            privacy=[
                "The parties learn which records match; the counts leak by design.",
                "No differential privacy: $\\varepsilon = \\infty$.",
            ],
            data=[{"name": "generated blocks", "kind": "generated", "sha256": "ab" * 32}],
        )
    rows = rows_of(0.2, 8)
    add_run(
        ws,
        "private_ml/training",
        notebook("DP training or DP data?", executed(rows, scored)),
        rows,
        headline="At ε = 1 **neither** way beats the rule “G2 ≥ 10” (0.919).",
        counts=False,
        data=[
            {
                "name": "student_mat (stand-in)",
                "kind": "stand-in",
                "sha256": "cd" * 32,
                "licence": "CC BY 4.0",
                "citation": "P. Cortez (2008). Student Performance. "
                "https://doi.org/10.24432/C5TG7T",
            }
        ],
    )
    add_failure(
        ws,
        "psi/protocol",
        {
            "name": "FileNotFoundError",
            "value": "no file /home/someone/secret/data.csv\nTraceback (most recent call last)",
            "cell": 6,
        },
    )
    return ws

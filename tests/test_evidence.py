"""What the README claims is what the committed scorecard holds."""

import re
from pathlib import Path

from pet_lab.workbench import published, scorecard, trace
from pet_lab.workbench.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]


def test_the_tally_of_the_readme_is_that_of_the_committed_scorecard():
    sentence = scorecard.tally(scorecard.read(ROOT / "reports" / "scorecard.csv"))["sentence"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- tally -->(.*)<!-- /tally -->", readme, re.DOTALL).group(1)
    assert " ".join(shown.split()) == sentence, "put this between the marks of the README"


def test_the_readme_says_when_and_at_which_commits_the_full_runs_were_made():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- runs -->(.*)<!-- /runs -->", readme, re.DOTALL).group(1)
    assert " ".join(shown.split()) == trace.full_sentence(Workspace(ROOT)), "put this there"


def test_the_committed_scorecard_has_every_printed_cell():
    table = scorecard.read(ROOT / "reports" / "scorecard.csv")
    fresh = scorecard.score(table.iloc[:0])
    keys = ["table", "metric", "as"]
    assert len(table) == len(fresh)
    assert (table[keys].to_numpy() == fresh[keys].to_numpy()).all()
    assert (table["published"] == fresh["published"]).all()


def test_the_shelf_of_the_readme_is_that_of_the_committed_scorecard():
    """A line a publication beside the report and the primers, reproduced as described or as run."""
    table = scorecard.read(ROOT / "reports" / "scorecard.csv")
    shelf = table[table["notebook"].str.startswith("literature/")]
    lines = []
    for name, part in scorecard.by_publication(shelf, published.load()).items():
        described = part[part["as"] == "described"]
        ran = part[(part["as"] == "published") & (part["verdict"] == "reproduced")]
        counts = [len(described), (described["verdict"] == "reproduced").sum(), len(ran) or "–"]
        lines.append("| " + " | ".join([name, *map(str, counts)]) + " |")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- shelf -->(.*)<!-- /shelf -->", readme, re.DOTALL).group(1)
    assert shown.split("\n")[4:-1] == lines, "put these lines between the marks of the README"

"""What the README claims is what the committed scorecard holds."""

import re
from pathlib import Path

import pytest

from pet_lab.workbench import evidence, scorecard
from pet_lab.workbench.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mark", ["tally", "runs", "shelf"])
def test_the_readme_says_what_scorecard_and_full_runs_hold(mark):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {mark} -->(.*)<!-- /{mark} -->", readme, re.DOTALL).group(1)
    want = evidence.generated(Workspace(ROOT))[mark]
    assert shown.split() == want.split(), "`pet-lab scorecard --write` writes it"


def test_the_committed_scorecard_has_every_printed_cell():
    table = scorecard.read(ROOT / "reports" / "scorecard.csv")
    fresh = scorecard.score(table.iloc[:0])
    keys = ["table", "metric", "as"]
    assert len(table) == len(fresh)
    assert (table[keys].to_numpy() == fresh[keys].to_numpy()).all()
    assert (table["published"] == fresh["published"]).all()

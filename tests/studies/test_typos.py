"""Counts by the protocol and in clear, unbiased correction, and claims that follow the rows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from pet_lab import data
from pet_lab.rows import concat
from pet_lab.studies import typos as study

SIZE = {"error_rate": 0.2, "sample_share": 0.7, "seed": 5, "protocol_n": 300}


@pytest.fixture(scope="module")
def rows():
    settings = study.Settings(n=20_000, replicates=8, **SIZE)
    return concat(study.simulate(settings), study.through_protocol(settings))


def test_protocol_counts_and_fits_as_in_clear(rows):
    counts, rates = study.compared(rows), study.compared(rows, rates=True)
    assert len(counts) == 16
    assert (counts["protocol"] == counts["clear"]).all()
    linked = counts[counts["what"] == "linked_pairs"].groupby("files")["clear"].sum()
    assert linked["full"] > linked["sample70"] > 0
    assert rates["protocol"].to_numpy() == pytest.approx(rates["clear"].to_numpy())
    full = rates[rates["files"] == "full"].set_index("what")
    assert full.loc["coverage", "actual"] == 1


def test_counts_of_a_cell_are_a_join_and_a_group_by():
    pair = study.Settings(n=1000, replicates=2, **SIZE).first_pairs(500)["full"]
    links = study.exact_links(pair)
    joined = pair.exports.merge(pair.imports, on=study.BLOCK_ON)
    agree = (joined["date_x"] == joined["date_y"]) & (joined["value_x"] == joined["value_y"])
    for factors, x, z in study.cell_variables(pair):
        cell = (joined[list(factors)] == list(factors.values())).all(axis=1)
        assert links.blocks.total(x, z) == cell.sum()
        assert links.total(x, z) == (cell & agree).sum()


def test_correction_is_unbiased_and_links_alone_are_not(rows):
    errors = study.relative_errors(rows)
    assert len(errors) == 2 * 2 * 4 * 8
    by = errors.groupby(["files", "estimator"])["value"].agg(["mean", "sem"])
    for files in ("full", "sample70"):
        mean, sem = by.loc[(files, "corrected count")]
        assert abs(mean) < 4 * sem
        assert by.loc[(files, "linked pairs"), "mean"] == pytest.approx(-0.2, abs=0.02)


def test_means_of_cells_are_by_definition(rows):
    table = study.cell_means(rows).set_index(["files", *study.CELL])
    values = rows.query(
        "files == 'full' and exporter_size == 'small' and preferential_code == 300"
        " and metric == 'linked_pairs' and reading == 'described'"
    )["value"]
    line = table.loc["full", "small", 300]
    assert line["linked_pairs"] == values.mean()
    assert line["linked_pairs, sd"] == pytest.approx(values.std())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"error_rate": 0}, "nothing to correct"),
        ({"error_rate": 1}, "at most 0.9, got 1"),
        ({"replicates": 0}, "replicates is a whole number of at least 2, got 0"),
        ({"replicates": 1}, "replicates is a whole number of at least 2, got 1"),
        ({"n": 20}, "n is a whole number of at least 1000, got 20"),
        ({"protocol_n": 0}, "protocol_n is a whole number of at least 1, got 0"),
        ({"protocol_n": 10}, "Some 4 pairs of the smallest sample would link"),
        ({"sample_share": 0}, "above 0 and at most 1, got 0"),
        ({"sample_share": 0.01}, "raise protocol_n or sample_share"),
        ({"seed": -1}, "seed is a whole number of at least 0, got -1"),
    ],
)
def test_parameters_that_cannot_go_together_are_one_sentence(change, sentence):
    parameters = {"n": 1000, "replicates": 2} | SIZE
    study.Settings(**parameters)
    with pytest.raises(ValueError, match=sentence):
        study.Settings(**parameters | change)


def test_duplicates_are_the_pairs_of_a_join():
    assert study.duplicates()["count"].tolist() == [1, 1, 1, 1]


def test_claims_turn_with_the_rows(rows):
    assert all(claim.holds for claim in study.takeaways(rows))
    wrong = rows["value"].where(rows["metric"] != "linked_pairs.protocol", 1.0)
    assert not study.takeaways(rows.assign(value=wrong))[0].holds
    assert study.headline(rows).holds
    biased = np.where(rows["metric"] == "corrected_count", rows["value"] * 1.1, rows["value"])
    assert not study.headline(rows.assign(value=biased)).holds
    assert "off by" in study.headline(rows.assign(value=biased)).text


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two files of one's own: 400 people in 100 blocks, a fifth of the birthdays with a typo."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(3)
    people = pd.DataFrame({"area": rng.integers(100, 200, 400), "day": rng.permutation(400)})
    people["region"] = rng.choice(["north", "south"], 400)
    clients = people.rename(columns={"area": "zone"}).drop(columns="region")[50:]
    clients["day"] += np.where(rng.random(350) < 0.2, 1000, 0)
    clients["size"] = rng.choice(["small", "large"], 350)
    people.to_csv(folder / "people.csv", index=False)
    clients.to_csv(folder / "clients.csv", index=False)
    names = (str(folder / f"{name}.csv") for name in ("people", "clients"))
    return data.open_pair(*names, on=["area=zone", "day"], unique=False)


def test_own_files_are_linked_and_corrected(own):
    rows = study.own_rows(study.own_files(own, block_on=1), processes=False)
    claims = [c.text for c in study.own_takeaways(rows)]
    assert claims[1].startswith("The protocol counts as a join in clear does, in all 8 cells")
    counts = study.own_counts(rows)
    linked = own.right.merge(own.left, on=own.key).value_counts(["size", "region"])
    assert counts.set_index(study.OWN_CELL)["linked_pairs"].to_dict() == linked.to_dict()
    # 350 people are in both; the standard error of the recall is about 2.5 %.
    assert counts["corrected_count"].sum() == pytest.approx(350, rel=0.1)
    assert counts["linked_pairs"].sum() < 310


def test_own_files_that_cannot_be_linked_are_refused(own):
    with pytest.raises(ValueError, match="name them in `also_on`"):
        study.own_files(own, block_on=2)
    wide = dataclasses.replace(own, left=own.left.assign(more="x"))
    with pytest.raises(ValueError, match="one column of each file"):
        study.own_files(wide, block_on=1)


def test_the_panel_draws_files_anew():
    errors, claim = study.what_if(share_of_typos=0.3, records=5000, share_kept=0.9, seed=1)
    assert claim.text.startswith("Linked pairs miss up to")
    assert set(errors["files"]) == {"full", "sample90"}

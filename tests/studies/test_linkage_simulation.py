"""The published experiment, its tables, the errors at scale, and claims that follow the rows."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pet_lab import data, linkage
from pet_lab.rows import Rows, concat
from pet_lab.studies import linkage_simulation as study
from pet_lab.studies.linkage_simulation import COUNT, VALUE
from pet_lab.workbench import disclosure


def trade(seed, n, error_rate):
    rng = np.random.default_rng(seed)
    return linkage.trade_declarations(n, rng=rng, typos=study.Typos(error_rate=error_rate))


@pytest.fixture(scope="module")
def chunks():
    seed = np.random.SeedSequence(7)
    return study.chunk_study(dices=[None, 0.9, 0.8], repetitions=1500, seed=seed)


def test_tables_2_4_to_2_9_come_out_as_published(chunks):
    """Means within 4 standard errors of ours and of the print's own 100 repetitions."""
    printed = [
        ("exact", None, "recall_actual", 0.8, 0.038),
        ("exact", None, f"{COUNT}_actual", 6.37, 2.116),
        ("exact", None, f"{COUNT}_naive", 5.32, 2.0),
        ("exact", None, f"{COUNT}_adjusted_published", 6.68, 2.53),
        ("exact", None, f"{VALUE}_actual", 6.26, 1.697),
        ("exact", None, f"{VALUE}_naive", 5.214, 1.585),
        ("exact", None, f"{VALUE}_adjusted_published", 6.514, 1.952),
        ("bloom", 0.9, "recall_actual", 0.796, 0.042),
        ("bloom", 0.9, f"{COUNT}_adjusted_published", 6.481, 2.634),
        ("bloom", 0.8, "recall_actual", 0.949, 0.02),
        ("bloom", 0.8, f"{COUNT}_naive", 5.96, 2.183),
        ("bloom", 0.8, f"{VALUE}_adjusted_published", 6.293, 1.785),
    ]
    for comparison, dice, column, mean, sd in printed:
        part = chunks[(chunks["comparison"] == comparison) & chunks["stratified"]]
        part = part if dice is None else part[part["dice"] == dice]
        se = np.hypot(sd / 10, part[column].std() / np.sqrt(len(part)))
        assert abs(part[column].mean() - mean) < 4 * se, column
        assert part[column].std() == pytest.approx(sd, abs=4 * sd / np.sqrt(200)), column


def test_leads_of_the_published_program(chunks):
    exact = chunks[(chunks["comparison"] == "exact") & chunks["stratified"]]
    loose = chunks[(chunks["dice"] == 0.8) & chunks["stratified"]]
    # The model's recall is right at n = 100, which the program never checked.
    assert np.abs(exact["recall_estimate"] - exact["recall_actual"]).max() < 1e-6
    error = loose["recall_estimate"] - loose["recall_actual"]
    assert np.sqrt((error**2).mean()) < 0.002
    # The adjusted total overshoots by 3-4 %: links prefer undeflated values.
    overshoot = exact[f"{COUNT}_adjusted_published"].mean() / exact[f"{COUNT}_actual"].mean() - 1
    assert 0.015 < overshoot < 0.055
    # Paragraph 23 is undefined in some 4.5 % of repetitions.
    assert 0.02 < loose[f"{COUNT}_adjusted_described"].isna().mean() < 0.07


def test_stratified_chunks_have_less_spread(chunks):
    exact = chunks[chunks["comparison"] == "exact"]
    spread = exact.groupby("stratified")[f"{COUNT}_actual"].std()
    assert spread[True] < spread[False]


def test_moments_are_means_and_deviations_with_their_errors():
    values = pd.Series(np.random.default_rng(5).normal(3, 2, 40_000))
    metrics, errors = study.moments(values, "v")
    assert metrics["v.mean"] == pytest.approx(3, abs=4 * errors["v.mean"])
    assert metrics["v.standard_error"] == pytest.approx(2, abs=4 * errors["v.standard_error"])
    assert errors["v.mean"] == pytest.approx(2 / 200, rel=0.05)
    assert errors["v.standard_error"] == pytest.approx(2 / np.sqrt(2 * 39_999), rel=0.05)


def test_printed_rows_are_moments_of_the_right_columns(chunks):
    rows = study.printed(chunks).query("comparison == 'bloom' and dice == 0.8")
    value = rows.set_index(["reading", "estimator", "metric"])["value"]
    loose = chunks[chunks["dice"] == 0.8]
    for reading, by_code, rate in (("published", True, "actual"), ("described", False, "estimate")):
        part = loose[loose["stratified"] == by_code]
        assert value[reading, "estimate", "recall.mean"] == part[f"recall_{rate}"].mean()
        adjusted = part[f"{COUNT}_adjusted_{reading}"]
        sd = pytest.approx(adjusted.std())
        assert value[reading, "adjusted", f"{COUNT}.standard_error"] == sd
        assert value[reading, "adjusted", "adjusted_undefined.share"] == adjusted.isna().mean()
    assert value["described", "adjusted", "adjusted_undefined.share"] > 0


def test_replicates_are_the_same_alone_and_in_a_batch():
    one, many = (
        study.chunk_study(dices=[None], repetitions=n, seed=np.random.SeedSequence(3))
        for n in (150, 250)
    )
    same = many[many["replicate"] < 150].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, same)


@pytest.fixture(scope="module")
def scale():
    return study.scale(
        {300: 2, 1000: 3}, dice=0.8, seed=np.random.SeedSequence(4), typos=study.Typos()
    )


def test_scale_has_every_estimator_and_a_summary_by_definition(scale):
    names = {"mixture", "slope", "naive", "published", "para22", "para23", "within_block"}
    assert set(scale["estimator"]) >= names | {"weighted", "resolved", "blocks_only"}
    table = study.errors(scale).set_index(["metric", "estimator", "records"])
    metric = f"{COUNT}.relative_error"
    part = scale.query("metric == @metric and estimator == 'naive' and records == 1000")
    line = table.loc[(metric, "naive", 1000)]
    assert line["replicates"] == len(part) == 3
    assert line["bias"] == pytest.approx(part["value"].mean())
    assert line["rmse"] == pytest.approx(np.sqrt((part["value"] ** 2).mean()))
    assert line["undefined"] == 0
    assert np.isnan(line["covered"])
    assert table.loc[("recall.error", "slope", 1000)]["covered"] in {0.0, 1 / 3, 2 / 3, 1.0}


def test_undefined_estimates_and_intervals_are_counted():
    metric = f"{COUNT}.relative_error"
    rows = Rows(records=10)
    for replicate, (value, inside) in enumerate([(0.1, 1), (0.3, 0), (-0.1, 1)]):
        metrics = {metric: value, f"{metric}.covered": inside}
        rows.add(replicate=replicate, estimator="a", metrics=metrics)
    rows.add(replicate=1, estimator="b", metrics={metric: 0.0, f"{metric}.covered": 1.0})
    table = study.errors(rows.frame()).set_index("estimator")
    assert table["covered"].to_dict() == {"a": pytest.approx(2 / 3), "b": 1.0}
    assert table["undefined"].to_dict() == {"a": 0.0, "b": pytest.approx(2 / 3)}


def test_a_claim_turns_with_its_rows(scale, chunks):
    """Where the resolved total is worse than paragraph 23, the report says so."""
    named = Rows()
    for setting, share in (("exporter alone", 0.8), ("exporter alone, salted by product", 0.0)):
        named.add(setting=setting, metrics={"attack.named": share})
    related = scale[scale["records"] == 300].copy()
    related["metric"] = "related." + related["metric"]
    rows = concat(scale, related, named.frame())
    (claim,) = [c for c in study.takeaways(chunks, rows) if "At every size the reso" in c.text]
    assert claim.holds
    worse = rows["value"].where(rows["estimator"] != "resolved", 9.0)
    turned = [c for c in study.takeaways(chunks, rows.assign(value=worse)) if not c.holds]
    assert "The resolved total is not always better" in " ".join(c.text for c in turned)
    assert "900.00%" in study.headline(rows.assign(value=worse)).text


def test_glance_refuses_an_unknown_encoding():
    with pytest.raises(ValueError, match="encoding is one of"):
        study.glance(encoding="rot13")
    table, claim = study.glance(chunk_size=300)
    assert claim.text.startswith("Of the count, ")
    actual = table.query("quantity == 'recall'")
    assert (actual["value"] - actual["actual"]).abs().max() < 0.05


PARAMETERS = {
    "error_rate": 0.2,
    "thresholds": [0.9, 0.8],
    "repetitions": 40,
    "sizes": [100, 1000],
    "size_repetitions": [6, 3],
    "scale_threshold": 0.8,
    "curve_records": 500,
    "seed": 1,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"error_rate": 0}, "nothing to correct"),
        ({"error_rate": 1}, "at most 0.9, got 1"),
        ({"thresholds": []}, r"thresholds is a list of 1 or more different values, got \[\]"),
        ({"thresholds": [0.8, 0.8]}, "different values"),
        ({"thresholds": [80]}, r"from 0 to 1, got 80; it is a Dice similarity"),
        ({"scale_threshold": float("nan")}, "got nan"),
        ({"repetitions": 0}, "repetitions is a whole number of at least 2, got 0"),
        ({"repetitions": 1}, "repetitions is a whole number of at least 2, got 1"),
        ({"sizes": [], "size_repetitions": []}, "sizes is a list of 1 or more"),
        ({"sizes": [100]}, r"got \[6, 3\] for \[100\]; pass lists of equal length"),
        ({"sizes": [100, 100]}, "sizes is a list of .* different values"),
        ({"sizes": [100, 5]}, "sizes is a whole number of at least 100, got 5"),
        ({"size_repetitions": [6, 1]}, "size_repetitions is a whole number of at least 2, got 1"),
        ({"curve_records": 1}, "curve_records is a whole number of at least 100, got 1"),
        ({"seed": -1}, "seed is a whole number of at least 0, got -1"),
    ],
)
def test_parameters_that_cannot_go_together_are_one_sentence(change, sentence):
    study.Settings(**PARAMETERS)
    with pytest.raises(ValueError, match=sentence):
        study.Settings(**PARAMETERS | change)


def test_a_rival_that_cannot_be_fitted_is_a_row_that_says_why():
    table = study.table(study.rules(trade(1, 100, 1.0)), "rule").set_index("setting")
    assert table.filter(like="Splink", axis=0)["links"].to_dict() == {
        "Splink, not fitted: no pair agrees in what it is trained on": 0.0
    }


def test_two_filters_of_a_typo_share_most_bits():
    declared = trade(1, 200, 0.2)
    bits, dice = study.filter_bits(declared)
    counts = bits["set by"].value_counts()
    assert dice == pytest.approx(2 * counts["both"] / (counts.sum() + counts["both"]))
    assert bits["row"].max() <= 19
    assert len(study.both_sides(declared)) == 3


def test_no_false_link_survives_where_all_values_agree():
    """Rules on files without typos: exact linkage is perfect, and resolution loses nothing."""
    table = study.table(study.rules(trade(2, 400, 0.0)), "rule").set_index("setting")
    assert table.loc["exact", ["recall", "precision"]].tolist() == [1.0, 1.0]
    assert table.loc["Bloom, Dice 0.8, one to one", "recall"] == 1.0
    assert table.loc["blocking key alone", "precision"] < 1.0


def test_the_glossary_has_the_words_of_the_headlines(scale):
    glossary = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text().lower()
    text = study.headline(scale).text
    for word in ("resolved total", "RMSE"):
        assert word in text
    for word in ("corrected total", "resolved total", "rmse", "link", "match"):
        assert f"**{word}" in glossary or f" {word} is " in glossary, word


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two files of one's own: 300 people in 40 blocks, a fifth of the names with a letter more."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(4)
    letters = rng.choice(list("abcdefghijklmnopqrst"), (300, 9))
    people = pd.DataFrame(
        {"area": rng.integers(10, 50, 300), "name": ["".join(w) for w in letters]}
    )
    people["region"] = rng.choice(["north", "south"], 300)
    clients = people.rename(columns={"area": "zone"}).drop(columns="region")[30:]
    clients["name"] += np.where(rng.random(270) < 0.2, "x", "")
    clients["size"], clients["sum"] = rng.choice(["small", "large"], 270), rng.integers(1, 100, 270)
    people.to_csv(folder / "people.csv", index=False)
    clients.to_csv(folder / "clients.csv", index=False)
    names = (str(folder / f"{name}.csv") for name in ("people", "clients"))
    return data.open_pair(*names, on=["area=zone", "name"], numbers=["sum"], unique=False)


@pytest.mark.parametrize("value", ["", "sum"])
def test_own_files_give_rates_and_totals_by_threshold(own, value):
    pair = own if value else dataclasses.replace(own, right=own.right.drop(columns="sum"))
    rows, behind = study.own_rows(pair, block_on=1, thresholds=[0.8], value=value)
    at = rows[rows["dice"] == 0.8].groupby("metric")["value"].sum()
    weight = own.right["sum"] if value else pd.Series(1, own.right.index)
    assert at["total.corrected"] == pytest.approx(weight.sum(), rel=0.1)
    assert at["own.recall"] == pytest.approx(1, abs=0.05)
    strict = rows[rows["dice"] == 0.95].groupby("metric")["value"].sum()
    assert strict["total.linked"] < 0.9 * weight.sum()
    assert strict["own.recall"] == pytest.approx(0.8, abs=0.08)
    claims = study.own_takeaways(rows, dice=0.8)
    assert claims[0].text.startswith("At a Dice of 0.8 ")
    assert claims[1].holds
    assert "do not trust" not in claims[1].text

    cells = disclosure.cells(rows, behind)
    disclosure.protect(cells, disclosure.Rules())
    verdicts = disclosure.judge(cells, personal=True, exceptions={})
    assert all("not checked" not in v.why for v in verdicts)
    kept = [c for c in cells if c.metric == "total.linked" and not c.reasons]
    assert kept
    for a, b in itertools.permutations(kept, 2):  # what two thresholds tell apart is no small group
        if {**a.where, "dice": 0} == {**b.where, "dice": 0} and not value:
            counts = rows["value"]
            assert not 0 < abs(counts[a.rows[0]] - counts[b.rows[0]]) < disclosure.Rules().threshold


def test_own_files_without_a_column_to_compare_are_refused(own):
    with pytest.raises(ValueError, match="in `also_on` the columns"):
        study.own_rows(own, block_on=2, thresholds=[0.8], value="sum")
    with pytest.raises(ValueError, match="one column of each file to total by"):
        study.own_rows(own, block_on=1, thresholds=[0.8])

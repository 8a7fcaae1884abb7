"""DP training against DP data: hold-outs, streams, metrics by their definition, honest claims."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pet_lab import data, dpsgd, synth
from pet_lab.studies import dp_training_vs_dp_data as study

PLAIN = dpsgd.Config(hidden=(8,), epochs=8, batch_size=16, clip=math.inf)
CASES = Path(__file__).parents[1] / "cases"
PRIVATE = dpsgd.Config(hidden=(8,), epochs=8, batch_size=16, noise_multiplier=2.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "a": rng.integers(0, 4, 120),
            "b": rng.choice(["x", "y", "z"], 120),
            "c": rng.integers(0, 3, 120),
        }
    )
    noise = rng.random(120) < 0.1
    return frame.assign(t=np.where(((frame["a"] > 1) | (frame["b"] == "x")) ^ noise, "yes", "no"))


def settings(frame, target="t", **changes):
    """Small and fast, on a table whose domain is not public."""
    size = {"delta": 1e-5, "learning_rate": 0.25, "clip": 1.0, "batch_size": 16, "epochs": 5}
    once = {"replicates": 1, "data_replicates": 1, "seed": 1}
    budgets = {"documented": False, "epsilons": [10.0, 1e6], "data_epsilons": [10.0]}
    return study.Settings(frame=frame, target=target, **(size | once | budgets | changes))


def test_a_replicate_is_the_same_alone_or_among_many(table):
    configs = {1.0: PRIVATE, math.inf: PLAIN}
    one, many = (
        study.private_training(settings(table, seed=3, replicates=r), configs) for r in (1, 3)
    )
    pd.testing.assert_frame_equal(one, many.query("replicate == 0"))
    assert set(many["epsilon"]) == {1.0, math.inf}
    assert many.groupby(["epsilon", "metric"]).size().eq(3).all()
    assert many["value"].between(0, 1).all()


def test_metrics_are_shares_of_the_records_they_name():
    """With a memorised key as a feature, training is perfect and the hold-out is not."""
    y = np.random.default_rng(5).integers(0, 2, 60)
    s = settings(pd.DataFrame({"key": [f"k{i}" for i in range(60)], "t": y}), replicates=4)
    config = dpsgd.Config(hidden=(), epochs=200, batch_size=12, clip=math.inf, learning_rate=5.0)
    rows = study.private_training(s, {math.inf: config})
    means = rows.groupby("metric")["value"].mean()
    assert means["accuracy.train"] == 1.0
    assert means["accuracy.validation"] < 0.85
    shares = rows.query("metric == 'accuracy.validation'")["value"] * 12  # a fifth of 60
    assert np.allclose(shares, shares.round())


def test_a_diverged_training_is_nan_and_not_averaged_away(table):
    wild = dpsgd.Config(hidden=(8,), epochs=8, batch_size=16, clip=math.inf, learning_rate=1e30)
    with pytest.warns(RuntimeWarning, match="diverged"):
        rows = study.private_training(settings(table), {math.inf: wild})
    assert rows["value"].isna().all()


def test_private_data_seen_and_unseen(table):
    s = settings(table, data_epsilons=[100.0], seed=2, data_replicates=2)
    mst = {"mechanism": "mst", "method": "sample"}
    seen = study.private_data(s, mst)
    assert set(seen["metric"]) == {
        "accuracy.train",
        "accuracy.validation",
        "accuracy.original",
        "unique_rows",
    }
    unseen = study.private_data(s, mst, unseen=True)
    assert set(unseen["metric"]) == {"accuracy.heldout"}
    assert (unseen["value"] * 24 % 1).abs().lt(1e-9).all(), "24 of 120 records are held out"
    pd.testing.assert_frame_equal(seen, study.private_data(s, mst))


def test_set_ups_share_their_noise_and_only_poisson_samples_keep_what_they_state(table):
    s = settings(table, batch_size=32)
    described, published = s.configs["described"], s.configs["published"]
    assert list(described) == list(published) == [10.0, 1e6, math.inf]
    assert [c.noise_multiplier for c in described.values()] == [
        c.noise_multiplier for c in published.values()
    ]
    assert not described[math.inf].private
    assert list(s.configs["Poisson samples"]) == [10.0]
    proven = study.proven(s).set_index("stated epsilon")
    assert proven.loc[10.0, "proven, as described"] > 10
    # Noise half as large counts for the clipped mean: more than twice the epsilon.
    assert (proven["proven, as published"] > 2 * proven["proven, as described"]).all()


def test_own_data_has_no_public_domain_and_claims_nothing_about_a_private_threshold(table):
    s = settings(table)
    rows = study.simulate(s)
    assert "dp stump" not in set(rows["mechanism"])
    assert {"rule", "mst", "target margins", "none"} <= set(rows["mechanism"])
    assert not rows.duplicated([c for c in rows.columns if c != "value"]).any()
    assert "nan" not in study.headline(rows).text
    shown = [c.text for c in study.takeaways(rows, study.proven(s))]
    assert not any("nan" in text for text in shown)
    assert any("the best private network or table is" in text for text in shown)


def rows_of(**values):
    """Means of the seven cells that the claims compare, one replicate each."""
    cells = {
        "each": ("dp-sgd", "described", "accuracy.validation", 10.0, 0.8),
        "mean": ("dp-sgd", "published", "accuracy.validation", 10.0, 0.6),
        "rule": ("rule", "described", "accuracy.validation", math.inf, 0.92),
        "stump": ("dp stump", "described", "accuracy.validation", 10.0, 0.92),
        "drawn": ("mst", "described", "accuracy.original", 10.0, 0.7),
        "rounded": ("mst", "published", "accuracy.original", 10.0, 0.6),
        "synthetic": ("mst", "described", "accuracy.validation", 10.0, 0.9),
        "star": ("target margins", "described", "accuracy.heldout", 10.0, 0.8),
        "base": ("none", "described", "accuracy", math.inf, 0.67),
    }
    records = [(*c[:4], values.get(name, c[4]), 0, name == "base") for name, c in cells.items()]
    columns = ["mechanism", "reading", "metric", "epsilon", "value", "replicate", "base_rate"]
    return pd.DataFrame(records, columns=columns)


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        (0, {"each": 0.7}),
        (0, {"mean": 0.8}),
        (2, {"stump": 0.75}),
        (3, {"rounded": 0.68}),
        (4, {"star": 0.72}),
        (5, {"synthetic": 0.72}),
    ],
)
def test_a_claim_turns_with_the_rows(claim, change):
    proven = pd.DataFrame([[10.0, 1.4, 33.0, 91.0]])
    assert all(c.holds for c in study.takeaways(rows_of(), proven))
    turned = study.takeaways(rows_of(**change), proven)
    assert [i for i, c in enumerate(turned) if not c.holds] == [claim]
    exact = study.takeaways(rows_of(), pd.DataFrame([[10.0, 1.4, 9.0, 91.0]]))
    assert [i for i, c in enumerate(exact) if not c.holds] == [1]


def test_what_the_notebook_shows_of_tables(table):
    s = settings(table, data_epsilons=[1.0, 1000.0])
    tables = study.example_tables(s)
    facts, margins, correlations = study.quality(s, tables)
    assert set(margins["column"]) == {"a", "b", "c", "t"}
    facts = facts.set_index("budget")
    assert facts.loc["ε = 1000", "mean distance of margins"] < 0.05  # 120 independent draws
    assert facts["mean distance of pairs"].is_monotonic_decreasing
    assert list(correlations) == ["original", "ε = 1", "ε = 1000"]
    assert any("read off" in sentence for sentence in study.privacy(s, tables))


def test_private_rivals_beat_the_base_rate_at_epsilon_one(real_data):
    """A stump keeps about 0.917, full-batch logistic regression about 0.87. Over 20 splits a mean
    moves by about 0.04 / sqrt(20) = 0.01; the margins are three to four times that."""
    frame = pd.read_csv(real_data / "student-mat.csv", sep=None, engine="python")
    s = settings(frame, "G3>=10", documented=True, data_epsilons=[1.0], replicates=20)
    means = study.rivals(s).groupby("mechanism")["value"].mean()
    assert means["dp stump"] == pytest.approx(0.917, abs=0.03)
    assert means["dp logistic regression"] == pytest.approx(0.87, abs=0.04)


def everything(file, target, **changes):
    """What the notebook computes and says, in its order, for a file in tests/cases."""
    out = ["iban_like"] if file == "long_ids.csv" else []
    source = data.open_table(str(CASES / file), target=target, leave_out=out)
    budgets = {"epsilons": [1.0, 10.0], "data_epsilons": [1.0], "epochs": 2}
    s = settings(source.frame, target, **(budgets | changes))
    rows = study.simulate(s)
    study.quality(s, study.example_tables(s))
    study.learning_curves(s, runs=1)
    claims = [study.headline(rows), *study.takeaways(rows, study.proven(s))]
    return rows, [claim.text for claim in claims]


@pytest.mark.parametrize(
    ("file", "target", "budgets"),
    [
        ("rare_class.csv", "event", {}),
        ("rare_class.csv", "event", {"seed": 4, "epsilons": [2000.0], "data_epsilons": [0.05]}),
        ("all_text.csv", "cls", {}),
        ("dollar_names.csv", "income>=50000", {"data_epsilons": [3.0]}),
        ("long_ids.csv", "income>=50000", {}),
        ("dummy_collision.csv", "income>=50000", {}),
    ],
)
def test_own_files_come_to_their_end(file, target, budgets):
    rows, texts = everything(file, target, **budgets)
    assert {"dp-sgd", "mst", "target margins", "none"} <= set(rows["mechanism"])
    assert rows["value"].notna().all()
    assert not any("nan" in text.split() or "nan%" in text for text in texts)
    left_out = sum("because no column holds numbers" in text for text in texts)
    assert left_out == (2 if file == "all_text.csv" else 0)
    assert (study.RULE in study.levels(rows)) == (file != "all_text.csv")


def test_a_synthetic_table_of_one_class_is_a_result(monkeypatch):
    """The network then answers that class for every record: right as often as the class is."""
    frame = pd.DataFrame({"a": np.arange(60) % 7, "t": [1] * 6 + [0] * 54})
    made = synth.Synthetic(
        frame=frame.assign(t=0),
        mechanism="mst",
        epsilon=1.0,
        delta=1e-5,
        assumptions=(),
    )
    monkeypatch.setattr(synth, "synthesise", lambda *_, **__: made)
    s = settings(frame, data_epsilons=[1.0])
    rows = study.private_data(s, {"mechanism": "mst"}).set_index("metric")["value"]
    assert rows["accuracy.original"] == 0.9
    assert rows["accuracy.train"] == rows["accuracy.validation"] == 1.0


def test_training_records_of_one_class_are_a_result():
    s = settings(pd.DataFrame({"a": range(20), "t": [0] * 19 + [1]}), replicates=40)
    rows = study.private_training(s, {1.0: PRIVATE})
    assert rows["value"].between(0, 1).all()
    held_out = rows.query("metric == 'accuracy.train' and value == 1")["replicate"]
    means = rows[rows["replicate"].isin(held_out)].query("metric == 'accuracy.validation'")
    assert (means["value"] == 0.75).any(), "the one positive among four records held out"


def test_a_column_with_missing_marks_is_named_in_one_sentence():
    with pytest.raises(data.DataError, match=r"missing in hours \(\d+\)") as refusal:
        data.open_table(str(CASES / "missing_colon.csv"), target="income>=50000")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"replicates": 0}, "replicates is a whole number of at least 1, got 0"),
        ({"data_replicates": -1}, "data_replicates is a whole number of at least 1, got -1"),
        ({"seed": -1}, "seed is a whole number of at least 0, got -1"),
        ({"epochs": 0}, "epochs is a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 17}, "batch_size=17 is larger than the 16 records"),
        ({"epsilons": []}, "epsilons is a list of 1 or more"),
        ({"data_epsilons": []}, "data_epsilons is a list of 1 or more"),
        ({"epsilons": [1.0, 0.0]}, "each of epsilons is a number above 0, got 0.0; leave it out"),
        ({"data_epsilons": [math.inf]}, "each of data_epsilons is a number above 0, got inf"),
        ({"data_epsilons": [math.nan]}, "each of data_epsilons is a number above 0, got nan"),
        ({"delta": 0.0}, "delta is between 0 and 1"),
        ({"clip": 0.0}, "clip"),
        ({"frame": pd.DataFrame({"a": range(5), "t": [0, 1, 0, 1, 1]})}, "At least 6 records"),
    ],
)
def test_parameters_that_cannot_go_together_are_refused_in_one_sentence(change, sentence):
    frame = pd.DataFrame({"a": range(20), "t": np.arange(20) % 2})
    settings(frame)
    with pytest.raises(ValueError, match=sentence) as refusal:
        settings(**{"frame": frame} | change)
    assert "\n" not in str(refusal.value)


# --- the libraries beside our engines ------------------------------------------------------------


def published_runs(mechanism, values, epsilon=1.0):
    base = {"mechanism": mechanism, "reading": "published", "metric": "accuracy.validation"}
    each = enumerate(values)
    return pd.DataFrame([base | {"epsilon": epsilon, "replicate": r, "value": v} for r, v in each])


def test_findings_of_the_agreement_by_definition():
    """Equivalent, differs and open, each where a t-test by scipy says so."""
    rng = np.random.default_rng(7)
    ours = rng.normal(0.7, 0.03, 400)
    same, other, few = rng.normal(0.7, 0.03, 10), rng.normal(0.8, 0.03, 10), np.array([0.72])
    rows = [
        published_runs(name, values, epsilon)
        for epsilon, theirs in ((1.0, same), (10.0, other), (100.0, few))
        for name, values in (("mst", ours), ("mst, smartnoise-synth", theirs))
    ]
    table = study.agreement(pd.concat(rows)).set_index("epsilon")
    assert table["finding"].to_dict() == {1.0: "equivalent", 10.0: "differs", 100.0: "open"}
    by_scipy = stats.ttest_ind(same, ours)  # pools both spreads, ours is 40 times as long
    assert table.loc[1.0, "p"] == pytest.approx(by_scipy.pvalue, abs=0.05)
    assert table.loc[10.0, "low"] > 0.05
    assert table.loc[[1.0, 10.0], "runs library"].eq(10).all()


def test_two_draws_of_one_law_rarely_differ():
    """Calibration: at most 5 % of tables of two lines, here 2,000, and three standard errors."""
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(200):
        rows = [
            published_runs(name, rng.normal(0.6, 0.08, size), epsilon)
            for epsilon in (1.0, 10.0)
            for name, size in (("dp-sgd", 20), ("dp-sgd, tensorflow-privacy", 3))
        ]
        wrong += study.agreement(pd.concat(rows))["finding"].eq("differs").any()
    assert wrong / 200 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_where_they_differ_the_library_is_scored_and_the_table_still_shows_both():
    rng = np.random.default_rng(9)
    rows = pd.concat(
        published_runs(name, rng.normal(mean, 0.02, size), epsilon)
        for epsilon, mean in ((1.0, 0.9), (10.0, 0.6))
        for name, mean, size in (("mst", 0.6, 30), ("mst, smartnoise-synth", mean, 10))
    )
    judged = study.judged(rows)
    means = judged.groupby(["mechanism", "epsilon"])["value"].mean()
    assert means["mst", 1.0] == pytest.approx(0.9, abs=0.03)  # the library's
    assert means["mst, our engine", 1.0] == pytest.approx(0.6, abs=0.03)
    assert means["mst", 10.0] == pytest.approx(0.6, abs=0.03)
    pd.testing.assert_frame_equal(study.agreement(judged), study.agreement(rows))


@pytest.mark.slow
def test_the_libraries_run_and_are_held_against_ours(table):
    """Both packages for real: a table of four columns, one run each."""
    s = settings(table, replicates=4, data_replicates=4, library_runs=1)
    rows = study.simulate(s)
    shown = study.agreement(rows)
    assert set(shown["mechanism"]) == {"dp-sgd", "mst"}
    assert shown["runs library"].eq(1).all()
    assert shown["runs"].eq(4).all()
    assert not set(study.ways(rows)["way"]) & {
        "mst, smartnoise-synth",
        "dp-sgd, tensorflow-privacy",
    }


def test_engine_and_mechanism_reach_every_private_run(table, monkeypatch):
    """Nothing with noise is trained or synthesised by ours, and nothing is left to compare."""
    train, synthesise, asked = study.dpsgd.train, study.synth.synthesise, []

    def trained(x, y, configs, *, engine="batched", **how):
        asked.extend((engine, config.private) for config in configs)
        return train(x, y, configs, **how)

    def synthesised(frame, *, mechanism, **how):
        asked.append((mechanism, True))
        return synthesise(frame, mechanism=mechanism.removesuffix("-smartnoise"), **how)

    monkeypatch.setattr(study.dpsgd, "train", trained)
    monkeypatch.setattr(study.synth, "synthesise", synthesised)
    s = settings(table, engine="tensorflow-privacy", mechanism="mst-smartnoise", library_runs=1)
    rows = study.simulate(s)
    private = {name for name, private in asked if private}
    assert private == {"tensorflow-privacy", "mst-smartnoise", "task"}
    assert not s.checked
    assert study.agreement(rows).empty


def test_stated_bounds_let_the_private_rivals_run_and_scale_by_them():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"a": rng.integers(0, 9, 80), "b": rng.normal(5, 1, 80), "c": ["x", "y"] * 40}
    )
    frame["t"] = (frame["a"] > 4).astype(int)
    stated = {
        "a": range(12),
        "b": data.Bins.between(0.0, 10.0, integer=False),
        "c": ("w", "x", "y"),
    }
    s = settings(frame, stated=stated, data_epsilons=[10.0], replicates=2)
    private = {"dp stump", "dp logistic regression", "dp network, full batch"}
    assert set(study.rivals(s)["mechanism"]) == private | {"rule"}
    assert s.scaled(s.encoded)[0, 0] == pytest.approx(2 * frame["a"][0] / 11 - 1)
    assert s.encoded.feature_names == ("a", "b", "c_w", "c_x", "c_y")
    assert not any("read off" in sentence for sentence in study.privacy(s, study.example_tables(s)))
    partly = settings(frame, stated={"a": range(12)}, data_epsilons=[10.0], replicates=2)
    assert set(study.rivals(partly)["mechanism"]) == {"rule"}, "b and c would be looked at"


def test_on_own_data_nothing_is_said_of_the_report():
    frame = pd.DataFrame({"a": range(40), "t": np.arange(40) % 2})
    s = settings(frame, replicates=2)
    rows, proven = study.simulate(s), study.proven(s)
    said = [
        " ".join(c.text for c in study.takeaways(rows, proven, counts=n)) for n in (True, False)
    ]
    assert "report" in said[0]
    assert not any(word in said[1] for word in ("report", "aragraph", "table 3"))

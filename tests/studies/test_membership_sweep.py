"""The sweep's rows, the printed epsilons, and claims that follow the rows."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pet_lab import accounting, dpsgd
from pet_lab.studies import membership_sweep as study
from pet_lab.workbench import published

RNG = np.random.default_rng(0)
X = RNG.random((90, 6))
Y = (X[:, 0] + 0.4 * RNG.normal(size=90) > 0.5).astype(int)
SMALL = dpsgd.Config(hidden=(8,), epochs=4, batch_size=12)
KEYS = ["epochs", *study.SETTING, "attack", "slice", "replicate", "metric"]
CELLS = published.cells("fig-3.10", "3.4")
GOOD = {"X": X, "y": Y, "base": SMALL, "learning_rates": [0.5], "noise_multipliers": [0.0, 1.0]}
GOOD |= {"overfit_epochs": [5, 2], "replicates": 2, "delta": 1e-5, "seed": 3}


def test_printed_epsilons_are_ours_without_their_decimal_point():
    points = study.decimal_points(CELLS, delta=1e-5)
    assert points["printed"].tolist() == [
        "2.92E+10",
        "1.01E+09",
        "1.01E+07",
        "3.10E+06",
        "1.39E+06",
    ]
    assert points["without its decimal point"].tolist() == points["printed"].tolist()
    assert points["decimals"].tolist() == [6, 6, 4, 4, 4]
    wrong = CELLS.assign(printed=CELLS["printed"] * 1.3)
    other = study.decimal_points(wrong, delta=1e-5)
    assert other["decimals"].tolist() == [6, 6, 4, 4, 4]
    assert accounting.report_epsilon(0.0, n=252, batch_size=22, epochs=200) == math.inf


def test_every_metric_for_every_setting_and_reproducible():
    settings = study.Settings(**GOOD)
    first, again = (study.attack(settings, settings.configs, reading="published") for _ in range(2))
    assert first.equals(again)
    alone = study.attack(settings, settings.configs[1:], reading="published")
    joint = first[first["noise_multiplier"] == 1.0].reset_index(drop=True)
    np.testing.assert_allclose(joint["value"], alone["value"], atol=1e-9)
    best = first[first["slice"] == study.BEST].set_index(
        ["noise_multiplier", "replicate", "metric"]
    )
    slices = first[(first["slice"] != study.BEST) & first["metric"].str.startswith("mia.")]
    largest = slices.groupby(["noise_multiplier", "replicate", "metric"])["value"].max()
    assert len(best) == 2 * 2 * 2
    assert study.by_attack(first.assign(reading="described"))["slice"].iloc[-1] == study.BEST
    assert best["value"].to_dict() == largest.to_dict()
    scores = {f"score.{part}" for part in ("train", "validation", "test", "gap")}
    assert set(first["metric"]) == scores | {"mia.auc", "mia.attacker_advantage"}
    assert not first.duplicated(KEYS).any()


def test_settings_that_are_not_printed_get_fewer_hold_outs():
    few = GOOD | {"replicates": 3, "others": 1, "printed": [(0.5, 1.0), (0.01, 0.4)]}
    rows = study.simulate(study.Settings(**few))
    trained = rows[rows["metric"] == "score.test"]
    counts = trained.groupby(["reading", "noise_multiplier"])["replicate"].nunique()
    assert counts.tolist() == [1, 3, 1, 3]
    assert rows[rows["metric"] == "overfit.score.gap"]["replicate"].nunique() == 1
    everywhere = study.simulate(study.Settings(**(few | {"printed": ()})))
    assert everywhere.groupby("metric")["replicate"].nunique()["score.test"] == 3
    keys = ["reading", "noise_multiplier", "replicate"]
    first = trained.set_index(keys)["value"]
    again = everywhere[everywhere["metric"] == "score.test"].set_index(keys)["value"]
    np.testing.assert_array_equal(first, again[first.index])


def by_ours(monkeypatch):
    """Our engine in the library's place; returns the engines that were asked for."""
    train, asked = dpsgd.train, []

    def trained(*args, engine="batched", **how):
        asked.append(engine)
        return train(*args, **how)

    monkeypatch.setattr(dpsgd, "train", trained)
    return asked


def test_the_library_trains_beside_ours_and_is_held_against_it(monkeypatch):
    asked = by_ours(monkeypatch)
    how = GOOD | {"replicates": 3, "library_runs": 2, "printed": [(0.5, 1.0)]}
    rows = study.simulate(study.Settings(**how))
    assert asked.count("tensorflow-privacy") == 1
    theirs = rows[rows["reading"] == "published, tensorflow-privacy"]
    ours = rows[(rows["reading"] == "published") & (rows["noise_multiplier"] == 1.0)]
    both = theirs.merge(ours, on=KEYS, suffixes=("", "_ours"))
    assert len(both) == len(theirs) > 0
    np.testing.assert_array_equal(both["value"], both["value_ours"])
    table = study.agreement(rows)
    assert set(table["noise_multiplier"]) == {1.0}
    assert table["runs library"].eq(2).all()
    assert table["runs"].eq(3).all()
    assert not table["finding"].eq("differs").any()
    asked.clear()
    settings = study.Settings(**(how | {"engine": "tensorflow-privacy"}))
    assert study.agreement(study.simulate(settings)).empty
    assert set(asked) == {"tensorflow-privacy"}


def test_the_suites_attack_beside_ours_on_equal_models():
    table = study.attack_agreement(study.Settings(**GOOD), models=3)
    whole = table[table["slice"] == study.WHOLE].set_index("reading")
    assert whole["models"].tolist() == [3, 3]
    assert (whole["difference"].abs() < 0.05).all()
    assert (table["low"] <= table["difference"]).all()


@pytest.mark.slow
def test_tensorflow_privacy_trains_the_same_targets():
    how = GOOD | {"replicates": 1}
    ours, theirs = (
        study.attack(one, one.configs[:1], reading="published")
        for one in (study.Settings(**how, engine=e) for e in ("batched", "tensorflow-privacy"))
    )
    np.testing.assert_allclose(ours["value"], theirs["value"], atol=1e-6)
    table = study.engines(study.Settings(**(how | {"noise_multipliers": [0.8]})))
    assert table["reading"].tolist() == ["described"] * 4 + ["published"] * 4
    assert (table.loc[0, "difference"] < 1e-6).all()


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_a_diverged_training_is_a_nan_row_and_no_attack():
    wild = replace(SMALL, learning_rate=1e30, clip=math.inf, epochs=8)
    settings = study.Settings(**(GOOD | {"X": X * 1e6}))
    rows = study.attack(settings, [wild], reading="published")
    assert rows[rows["metric"].str.startswith("score")]["value"].isna().all()
    assert rows["status"].eq("the training diverged").all()
    assert not rows["metric"].str.startswith("mia").any()


def test_a_slice_without_members_is_a_row_that_says_why():
    sure = (X[:, 0] > 0.5).astype(int)  # easily learned: nobody is classified wrongly
    settings = study.Settings(**(GOOD | {"y": sure, "replicates": 1}))
    rows = study.attack(settings, [replace(SMALL, epochs=150, learning_rate=0.5)])
    empty = rows[rows["slice"] == "CORRECTLY_CLASSIFIED=False"]
    assert empty["value"].isna().all()
    assert empty["status"].str.startswith("empty slice").all()


def test_the_printed_slice_is_set_beside_the_maximum_over_slices():
    lines = [
        {"learning_rate": 0.01, "noise_multiplier": 0.4, "reading": "published", "replicate": r}
        | {"metric": "mia.auc", "slice": part, "value": value + 0.1 * r}
        for r in (0, 1)
        for part, value in (("CLASS=0", 0.5), (study.BEST, 0.7))
    ]
    table = study.best_slices(pd.DataFrame(lines), CELLS)
    row = table[(table["table"] == "3.4") & (table["noise_multiplier"] == 0.4)].iloc[0]
    assert row["printed slice"] == "CLASS=0"
    assert row["ours, that slice"] == pytest.approx(0.55)
    assert row["ours, maximum over slices"] == pytest.approx(0.75)
    assert len(table) == (CELLS["metric"] == "mia.auc").sum()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attacks": ["GUESS"]}, "attack is one of"),
        ({"slow_attacks": ["GUESS"]}, "attack is one of"),
        ({"replicates": 0}, "replicates is a whole number of at least 1, got 0"),
        ({"overfit_epochs": [5, 0]}, "overfit_epochs is a whole number of at least 1, got 0"),
        ({"base": replace(SMALL, batch_size=58)}, "batch_size = 58 is larger than the 57 records"),
        ({"learning_rates": []}, "learning_rates is a list of 1 or more"),
        ({"delta": 1.5}, "delta is strictly between"),
        ({"y": Y[:4]}, "at least 6 records"),
    ],
)
def test_parameters_are_checked_against_each_other(changes, words):
    with pytest.raises(ValueError, match=words):
        study.Settings(**(GOOD | changes))


def test_epsilon_of_both_readings():
    base = dpsgd.Config(epochs=200, batch_size=22)
    y = np.arange(395) % 2  # 252 of them are members
    settings = study.Settings(**(GOOD | {"base": base, "y": y, "noise_multipliers": [0.4]}))
    rows = study.epsilons(settings).set_index(["reading", "metric"])["value"]
    assert rows["published", "epsilon"] == pytest.approx(1007.22, abs=0.005)
    # One microbatch: a record moves the sum by 2 C, as if the noise were half.
    half = accounting.epsilon(
        0.2, n=252, batch_size=22, epochs=200, delta=1e-5, sampling="shuffle", accountant="pld"
    )
    assert rows["published", "epsilon.proven"] == half.epsilon
    assert rows["described", "epsilon"] == rows["described", "epsilon.proven"] < half.epsilon


def invented(fall, gap_slope=0.5):
    """Rows of six replicates in which the AUC falls by `fall` with the noise."""
    rng = np.random.default_rng(1)
    lines = []
    for noise in (0.0, 1.0):
        for r in range(6):
            gap = 0.1 + 0.05 * rng.normal()
            base = {"epochs": 5, "learning_rate": 0.1, "noise_multiplier": noise, "replicate": r}
            auc = 0.6 - fall * noise + 0.01 * rng.normal()
            for reading, attack, part, metric, value in (
                ("described", "LOGISTIC_REGRESSION", study.WHOLE, "mia.auc", auc),
                ("described", "THRESHOLD_ATTACK", study.WHOLE, "mia.auc", 0.5 + gap_slope * gap),
                ("described", "", "", "score.gap", gap),
                ("published", "LOGISTIC_REGRESSION", "CLASS=0", "mia.auc", rng.random()),
            ):
                lines.append(
                    base
                    | {"reading": reading, "attack": attack, "slice": part}
                    | {"metric": metric, "value": value}
                )
    for epochs in (5, 50):
        for r in range(6):
            for metric in ("overfit.score.gap", "overfit.mia.auc"):
                value = gap_slope * epochs / 100 + 0.001 * rng.normal()
                lines.append(
                    {"epochs": epochs, "learning_rate": 0.1, "noise_multiplier": 0.0}
                    | {"reading": "described", "attack": "", "slice": "", "replicate": r}
                    | {"metric": metric, "value": value}
                )
    return pd.DataFrame(lines)


@pytest.mark.parametrize(
    ("fall", "slope", "holds"),
    [(0.05, 0.5, [True] * 6), (0.0, -0.5, [True, True, False, False, False, True])],
)
def test_claims_follow_the_rows(fall, slope, holds):
    rows, points = invented(fall, slope), study.decimal_points(CELLS, delta=1e-5)
    claims = study.takeaways(rows, points, CELLS)
    assert [claim.holds for claim in claims] == holds
    assert all("{" not in claim.text for claim in claims)
    assert study.headline(rows, points).text.endswith("(2.92E+10 is 29,225).")


def test_causes_beside_overfitting_are_varied_one_at_a_time():
    rows = study.causes(study.Settings(**GOOD))
    area = rows[rows["metric"] == "cause.mia.auc"]
    assert len(area) == 2 * 3 * 4 * 2  # causes, levels, models, replicates
    by = area.groupby("model")["value"].mean()
    assert by["forest"] > by["logistic regression"] + 0.05  # it knows its members by heart
    middle = [part[part["level"] == part["level"].unique()[1]] for _, part in area.groupby("cause")]
    same = [part.set_index(["model", "replicate"])["value"] for part in middle]
    pd.testing.assert_series_equal(*same)
    claims = study.why(rows)
    assert len(claims) == 3
    flat = rows.assign(value=0.5)
    assert not any(claim.holds for claim in study.why(flat)[:2])


def test_the_toolbox_attacks_the_models_that_the_suite_attacks():
    rows = study.toolbox(study.Settings(**GOOD))
    assert set(rows["attack"]) == {"suite, logistic regression", *study.TOOLS.values()}
    assert len(rows) == 3 * 2 * 2  # attacks, settings, replicates
    assert rows["value"].between(0, 1).all()
    assert len(study.why(rows)) == 1

"""The shadow attack's rows, table 3.5 against itself, and claims that follow the rows."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pet_lab import data, dpsgd, mia
from pet_lab.studies import shadow_models as study
from pet_lab.workbench import published

RNG = np.random.default_rng(0)
X = RNG.random((90, 6))
Y = (X[:, 0] + 0.4 * RNG.normal(size=90) > 0.5).astype(int)
DOMAIN = mia.Domain.of(X, [f"x{j}" for j in range(6)])
PLAIN = dpsgd.Config(hidden=(8,), epochs=30, batch_size=12, learning_rate=0.5, clip=math.inf)
CELLS = published.cells("3.5")
SOURCE = data.open_table("student_mat", target="G3>=10", stand_in=True)
FRAME = SOURCE.frame
GOOD = {"X": X, "y": Y, "domain": DOMAIN, "plain": PLAIN, "epsilon": 1.1, "delta": 1e-3}
GOOD |= {"private": replace(PLAIN, epochs=5, learning_rate=1.0, clip=1.0)}
GOOD |= {"shadow_models": 2, "replicates": 1, "lira_models": 16, "seed": 1}


def attacked(config=PLAIN, **changes):
    one = study.Victim(target="non-private", epsilon=math.inf, config=config)
    return study.shadow_attack(study.Settings(**(GOOD | changes)), one)


@pytest.fixture(scope="module")
def rows():
    return attacked(replicates=2, shadow_models=4)


def test_every_cell_is_there(rows):
    cells = set(zip(rows["metric"], rows["attack_model"], rows["samples"], strict=True))
    for model in ("class0", "class1"):
        assert ("accuracy", model, "") in cells
        for samples in ("member", "nonmember"):
            assert {(m, model, samples) for m in ("precision", "recall", "f1")} <= cells
    assert ("target.accuracy", "", "") in cells
    assert (rows[rows["metric"] == "queries"]["value"] > 0).all()


def test_a_replicate_is_the_same_alone_or_among_others(rows):
    alone = attacked(shadow_models=4)
    first = rows[rows["replicate"] == 0]
    np.testing.assert_array_equal(first["value"], alone["value"])


def test_a_target_that_predicts_one_class_only_is_counted_not_attacked():
    # All members but three are of class 1, so that class 0 never gets a probability near one half.
    ones = (np.arange(90) > 3).astype(int)
    lazy = dpsgd.Config(hidden=(4,), epochs=60, batch_size=30, learning_rate=0.5)
    rows = attacked(lazy, y=ones, held_out=0.1, seed=0)
    failed = rows[rows["metric"] == "synthesis.failed"]
    assert failed["value"].tolist() == [1.0]
    assert "records of class 0" in failed["status"].iloc[0]
    assert not rows["metric"].eq("accuracy").any()


def test_a_target_or_imitations_that_teach_nothing_are_rows_that_say_why(monkeypatch):
    first = (np.arange(90) == 0).astype(int)
    rows = attacked(y=first, seed=0, replicates=8)
    assert {mia.ONE_CLASS} < set(rows["status"])

    def nothing(*_):
        raise mia.SynthesisError("No class has both members and non-members.")

    monkeypatch.setattr(mia, "shadow_scores", nothing)
    rows = attacked()
    assert rows[rows["metric"] == "synthesis.failed"]["status"].tolist()[0].startswith("No class")


def test_lira_with_too_few_trainings_is_a_row_that_says_why():
    settings = study.Settings(**(GOOD | {"seed": 0}))
    plain, *_ = settings.victims
    rows, curves = study.lira(settings, [plain])
    assert rows["value"].notna().all()
    assert len(curves) == 121
    object.__setattr__(settings, "lira_models", 2)  # fewer than a run accepts
    rows, curves = study.lira(settings, [plain])
    assert rows["value"].isna().all()
    assert rows["status"].str.contains("train more models").all()
    assert len(curves) == 0


def test_steps_on_all_records_at_once_spend_the_same_epsilon_and_learn():
    y = data.positives(FRAME, "G3>=10")
    how = GOOD | {"y": y, "replicates": 8, "seed": 0}
    settings = study.Settings(**how, natural=study.natural_units(SOURCE, "G3>=10"))
    *_, rival = settings.victims
    assert settings.guarantee(rival).epsilon == pytest.approx(1.1, rel=1e-4)
    means = study.full_batch(settings, rival).groupby("metric")["value"].mean()
    assert means["target.accuracy"] > max(y.mean(), 1 - y.mean()) + 0.1  # the base rate
    assert means["lira.auc"] == pytest.approx(0.5, abs=0.05)
    unknown = study.full_batch(study.Settings(**how), rival)
    assert unknown["value"].isna().all()
    assert unknown["status"].tolist() == ["no documented ranges to scale by"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held_out": 1.0}, "held_out is a share"),
        ({"shadow_models": 0}, "shadow_models is a whole number of at least 1"),
        ({"lira_models": 4}, "lira_models is a whole number of at least 16"),
        ({"plain": replace(PLAIN, batch_size=46)}, "batch_size = 46 is larger than the 45 records"),
    ],
)
def test_parameters_are_checked_against_each_other(changes, words):
    with pytest.raises(ValueError, match=words):
        study.Settings(**(GOOD | changes))


def test_settings_spend_what_they_state():
    settings = study.Settings(**GOOD)
    plain, private, published_, _ = settings.victims
    assert settings.guarantee(plain).epsilon == math.inf
    assert settings.guarantee(private).epsilon == pytest.approx(1.1, rel=1e-4)
    assert published_.config.microbatches == 1
    assert settings.guarantee(published_).epsilon > 2 * 1.1


def test_the_printed_table_implies_its_own_accuracies():
    table = study.implied(CELLS).set_index(["target", "attack_model"])
    # By hand, class 0 under DP: N/M = .13 (1 - .85) / (.85 (1 - .93)), (.13 + .93 N/M) / (1 + N/M).
    ratio = 0.13 * 0.15 / (0.85 * 0.07)
    want = (0.13 + 0.93 * ratio) / (1 + ratio)
    assert table.loc[("dp-sgd", "class0"), "implied by the members"] == pytest.approx(want)
    assert table.loc[("dp-sgd", "class0"), "accuracy, printed"] == 0.55
    consistent = table.drop(index=("dp-sgd", "class0"))
    gap = (consistent["accuracy, printed"] - consistent["implied by the members"]).abs()
    assert gap.max() < 0.01  # the print has two decimals


def test_claims_follow_the_rows(rows):
    private = rows.assign(target="dp-sgd", epsilon=1.1)
    know = private["metric"].isin(["balanced_accuracy", "mia.auc"])
    private.loc[know, "value"] = 0.5
    lira = rows.head(2).assign(metric="lira.auc", attack_model="", samples="", value=[0.8, 0.8])
    both = study.concat(rows, private, lira, lira.assign(target="dp-sgd, ε = 1.1", value=0.5))
    claims = study.takeaways(both, CELLS, base_rate=0.99)
    assert [claim.holds for claim in claims][:2] == [True, True]
    assert claims[0].text.endswith("imply an accuracy of 0.33 to 0.34, printed is 0.55.")
    assert claims[3].holds
    assert claims[4].holds
    assert study.headline(both).holds
    unattacked = both[~((both["target"] == "dp-sgd") & (both["attack_model"] != ""))]
    assert not study.headline(unattacked).holds
    assert not study.takeaways(unattacked, CELLS, base_rate=0.5)[2].holds


def test_the_library_trains_targets_and_imitations_beside_ours(monkeypatch):
    train, asked = dpsgd.train, []

    def trained(*args, engine="batched", **how):
        asked.append((engine, len(how["seeds"])))
        return train(*args, **how)

    monkeypatch.setattr(dpsgd, "train", trained)
    settings = study.Settings(**(GOOD | {"replicates": 3, "library_runs": 2}))
    rows, _ = study.simulate(settings)
    theirs = [size for engine, size in asked if engine == "tensorflow-privacy"]
    assert theirs.count(1) == 2 * 2  # targets of two kinds; the others are imitations
    assert theirs.count(2) > 0
    table = study.agreement(rows)
    assert set(table["target"]) == {"non-private", "dp-sgd"}
    accuracy = table[table["metric"] == "target.accuracy"]
    assert accuracy["runs library"].tolist() == [2, 2]
    keys = ["target", "replicate"]
    part = rows[rows["metric"] == "target.accuracy"]
    ours = part[part["reading"] == "published"].set_index(keys)["value"]
    peer = part[part["reading"] == "published, tensorflow-privacy"].set_index(keys)["value"]
    np.testing.assert_array_equal(peer, ours[peer.index])


def test_the_search_has_its_own_rows_and_its_price():
    settings = study.Settings(**(GOOD | {"replicates": 2}))
    rows = study.search(settings)
    assert set(rows["metric"]) == {
        "tuning.epsilon",
        *(f"search.{m}" for m in ("accuracy", "recall.class0", "recall.class1")),
    }
    runs = rows[rows["metric"] == "search.accuracy"]
    assert len(runs.drop_duplicates(["learning_rate", "epochs"])) == 24
    assert len(runs) == 48
    table, claim = study.searched(rows, CELLS)
    assert table["distance"].is_monotonic_increasing
    best = table.iloc[0]
    gaps = (best["search.accuracy"] - 0.68, best["search.recall.class0"] - 0.2)
    gaps += (best["search.recall.class1"] - 0.98,)
    assert best["distance"] == pytest.approx(max(map(abs, gaps)))
    assert "24 settings" in str(claim)
    # The taken setting, trained here, is the target that is attacked: same noise, other streams.
    price = rows[rows["metric"] == "tuning.epsilon"].set_index("release")["value"]
    assert 1.1 < price["one"] < price["random"] < price["all"] < 24 * 1.1


def test_what_is_rebuilt_follows_from_the_decisions(rows):
    one = rows[rows["replicate"] == 0]
    rebuilt = one[one["metric"].str.startswith("rebuilt.")].set_index("metric")["value"]
    called, members, found = (rebuilt[name] for name in study.REBUILT[:3])
    base = 1 - round(0.25 * 90) / 90
    assert called * members == pytest.approx(found * base)  # the same records, counted twice
    assert rebuilt["rebuilt.copies"] == 0
    table, claim = study.rebuilt(rows, held_out=0.25)
    assert table["target"].tolist() == ["non-private"]
    assert "rebuilds nothing" in str(claim)
    some = rows.assign(value=rows["value"].where(rows["metric"] != "rebuilt.copies", 2.0))
    assert "synthesised 2 a target are" in str(study.rebuilt(some, held_out=0.25)[1])
    nobody = study.rebuilt(rows[rows["metric"] == "queries"], held_out=0.25)
    assert "no target could be imitated" in str(nobody[1])


def test_a_synthesised_record_that_is_in_the_training_set_is_counted():
    """A table that holds every record there can be: all that is synthesised is in it."""
    X = np.array([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)] * 20)
    y = X[:, 0].astype(int)
    rows = attacked(X=X, y=y, domain=mia.Domain.of(X, ["a", "b"]))
    copies = rows.loc[rows["metric"] == "rebuilt.copies", "value"]
    assert copies.tolist() == [4 * 60]

"""Records that each way needs: a population with known truth, gaps by definition, honest claims."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pet_lab import accounting, data
from pet_lab.studies import how_large_n as study
from pet_lab.studies.how_large_n import LOGISTIC, MARGINS, MST, SGD, STUMP, WAYS

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(study, "PEOPLE", 2000)
    monkeypatch.setattr(study, "STEPS", 40)


@pytest.fixture(scope="module")
def table():
    """300 records: c follows b, b follows a; the class follows a, with noise."""
    rng = np.random.default_rng(11)
    a = rng.integers(0, 4, 300)
    b = np.where(rng.random(300) < 0.8, a, rng.integers(0, 4, 300))
    c = np.where(rng.random(300) < 0.8, b % 2, rng.integers(0, 2, 300))
    t = (a >= 2) ^ (rng.random(300) < 0.1)
    text = np.array(["u", "v", "w", "x"])[rng.integers(0, 4, 300)]
    frame = pd.DataFrame({"a": a, "b": b, "c": c, "text": text, "free": rng.normal(size=300)})
    return frame.assign(t=np.where(t, "yes", "no"))


def settings(frame, target="t", **changes):
    good = {"sizes": [150], "epsilons": [1.0], "delta": 1e-6, "replicates": 1, "seed": 3}
    good |= {"data_replicates": 1, "mechanism": "mst"}
    return study.Settings(frame=frame, target=target, **(good | changes))


def test_the_population_has_the_margins_and_linked_pairs_of_its_table(table):
    people = settings(table).population
    edges = {frozenset((child, up)) for child, up in enumerate(people.tree.parent) if up >= 0}
    assert {frozenset((0, 1)), frozenset((1, 2))} <= edges  # a-b and b-c, not a-c
    drawn, chance = people.draw(50_000, np.random.default_rng(0))
    assert list(drawn.columns) == ["a", "b", "c", "text", "free", "t"]
    for columns in (["a"], ["text"], ["a", "b"], ["b", "c"]):
        ours, real = (f.groupby(columns).size() / len(f) for f in (drawn, table))
        se = np.sqrt(real / 50_000)
        assert ((ours - real).abs() < 5 * se + 1e-9).all(), columns
    # The class is a coin with the chance that is stated.
    se = math.sqrt((chance * (1 - chance)).mean() / 50_000)
    assert abs(drawn["t"].mean() - chance.mean()) < 5 * se
    assert drawn["free"].between(table["free"].min(), table["free"].max()).all()


def test_features_are_made_by_public_ranges_alone(table):
    people = settings(table).population
    one = people.features(people.frame.iloc[[7]])
    pd.testing.assert_frame_equal(
        one, people.features(people.frame).iloc[[7]].reset_index(drop=True)
    )
    assert one.shape[1] == 8  # a, b, c, four levels of text, free
    assert people.features(people.frame)["7"].abs().max() <= 1 + 1e-9  # free, scaled to [-1, 1]
    assert people.features(people.frame)["0"].unique().size == 4
    assert sorted(people.features(people.frame)["0"].unique()) == [-1.5, -0.5, 0.5, 1.5]


def test_every_way_runs_at_every_budget_and_accuracy_is_the_known_chance(table):
    s = settings(table, sizes=[150, 1000], replicates=2)
    rows = study.simulate(s)
    counts = rows[rows["records"] > 0].groupby(["way", "records", "epsilon"]).size()
    assert counts.loc[[SGD, LOGISTIC, STUMP]].eq(2).all()
    assert counts.loc[[MST, MARGINS]].eq(1).all()
    assert len(counts) == 5 * 2 * 2
    best = study.levels(rows)["best possible"]
    assert rows["value"].max() <= best + 1e-12, "nothing beats the likelier class"
    means = rows.groupby(["way", "records", "epsilon"])["value"].mean()
    assert means[STUMP, 1000, math.inf] > 0.95 * best
    first = study.simulate(settings(table, sizes=[150, 1000]))
    same = rows[rows["replicate"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, same)  # alone or among many


def test_each_training_spends_its_epsilon(table):
    for way in (SGD, LOGISTIC):
        plan = study.configs(settings(table, sizes=[400]), 400, way)
        assert plan[math.inf].noise_multiplier == 0
        spent = accounting.of(plan[1.0], n=400, delta=1e-6, accountant="pld").epsilon
        assert spent == pytest.approx(1.0, rel=1e-3)
        assert spent <= 1.0


def swept(lost, sizes=(100, 1000, 10000), epsilon=1.0, replicates=1):
    """Rows whose gaps are `lost` by way, size by size; the self without noise has .9."""
    known = {study.BEST: 0.95, study.BASE: 0.6}
    records = [(way, 0, math.inf, 0, value) for way, value in known.items()]
    for way in WAYS:
        for n, gap in zip(sizes, lost.get(way, (0.0,) * len(sizes)), strict=True):
            for r in range(replicates):
                records += [(way, n, math.inf, r, 0.9), (way, n, epsilon, r, 0.9 - gap)]
    columns = ["way", "records", "epsilon", "replicate", "value"]
    return pd.DataFrame(records, columns=columns).assign(metric="accuracy")


@pytest.mark.parametrize(
    ("gaps", "n", "text"),
    [
        ((0.3, 0.1, 0.05), math.inf, "more than 10,000"),
        ((0.005, 0.01, -0.02), 100, "100 or fewer"),
        ((0.3, 0.015, 0.005), 10**3.5, "about 3,200"),  # halfway in log n
        ((0.0, 0.019, 0.001), 10**3.5, "about 3,200"),  # near at first is not near for good
        ((0.02, 0.0, 0.0), 10**2.5, "about 320"),
    ],
)
def test_needed_by_its_definition(gaps, n, text):
    rows = swept({SGD: gaps})
    line = study.needed(rows).set_index("way").loc[SGD]
    assert line["mean"] == pytest.approx(n)
    assert study.words(rows).set_index("way").loc[SGD, "ε = 1"] == text
    assert (SGD in set(study.reached(rows)["way"])) == math.isfinite(n)


def test_the_spread_of_what_is_needed_comes_from_the_replicates():
    rows = swept({SGD: (0.3, 0.1, 0.0)}, replicates=8)
    assert study.needed(rows).set_index("way").loc[SGD, "se"] == pytest.approx(0, abs=1e-6)
    noisy = rows["way"].eq(SGD) & rows["epsilon"].eq(1.0)
    rows.loc[noisy, "value"] += np.random.default_rng(1).normal(scale=0.01, size=noisy.sum())
    assert study.needed(rows).set_index("way").loc[SGD, "se"] > 0


FAR = {SGD: (0.28, 0.05, 0.001), MST: (0.3, 0.2, 0.002), MARGINS: (0.2, 0.02, 0.001)}


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        (0, {SGD: (0.02, 0.015, 0.001)}),
        (1, {LOGISTIC: (0.29, 0.05, 0.0)}),
        (2, {SGD: (0.28, 0.2, 0.2)}),
        (3, {MARGINS: (0.3, 0.2, 0.0099)}),
        (5, {STUMP: (0.02, 0.02, 0.02)}),
    ],
)
def test_a_claim_turns_with_the_rows(claim, change):
    two = [swept(FAR, epsilon=e) for e in (1.0,)]
    more = swept({way: [g / 2 for g in gaps] for way, gaps in FAR.items()}, epsilon=10.0)
    rows = pd.concat([*two, more[more["epsilon"] == 10.0]], ignore_index=True)
    held = study.takeaways(rows)
    assert [c.holds for c in held] == [True] * 6, held
    way, gaps = next(iter(change.items()))
    for n, gap in zip((100, 1000, 10000), gaps, strict=True):
        here = (rows["way"] == way) & (rows["records"] == n) & (rows["epsilon"] == 1.0)
        rows.loc[here, "value"] = 0.9 - gap
    assert not study.takeaways(rows)[claim].holds
    assert not any("nan" in c.text for c in study.takeaways(rows))


def test_a_diverged_training_is_no_answer(table, monkeypatch):
    train = study.dpsgd.train

    def broken(*args, **how):
        run = train(*args, **how)
        run.weights[0] = math.nan
        return run

    monkeypatch.setattr(study.dpsgd, "train", broken)
    rows = study.simulate(settings(table))
    assert rows.query("way == @LOGISTIC and epsilon == inf")["value"].isna().all()


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("rare_class.csv", "event"),
        ("all_text.csv", "cls"),
        ("dollar_names.csv", "income>=50000"),
        ("dummy_collision.csv", "income>=50000"),
    ],
)
def test_own_files_come_to_their_end(file, target):
    source = data.open_table(str(CASES / file), target=target)
    s = settings(source.frame, target)
    rows = study.simulate(s)
    assert set(WAYS) <= set(rows["way"])
    assert rows["value"].notna().all()
    texts = [study.headline(rows).text, *(c.text for c in study.takeaways(rows))]
    assert not any("nan" in text.split() for text in texts)
    assert len(study.facts(s)) == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sizes": [50]}, "each of sizes is a whole number of at least 100, got 50"),
        ({"sizes": []}, "sizes is a list of 1 or more"),
        ({"epsilons": [1.0, 1.0]}, "epsilons is a list of 1 or more different"),
        ({"epsilons": [math.inf]}, "each of epsilons is a number above 0, got inf; no noise is"),
        ({"delta": 1.0}, "delta is between 0 and 1"),
        ({"replicates": 0}, "replicates is a whole number of at least 1"),
        ({"mechanism": "aim"}, "mechanism is one of mst, mst-smartnoise"),
        ({"seed": -1}, "seed is a whole number of at least 0"),
    ],
)
def test_parameters_that_cannot_go_together_are_refused_in_one_sentence(table, change, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        settings(table, **change)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_the_package_makes_the_tables_by_parameter(table, tmp_path, monkeypatch):
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path))
    rows = study.simulate(settings(table[["a", "b", "t"]], mechanism="mst-smartnoise"))
    assert rows.query("way == @MST")["value"].between(0, 1).all()


def test_only_the_named_mechanism_makes_msts_tables(table, monkeypatch):
    asked, synthesise = [], study.synth.synthesise

    def noted(frame, *, mechanism, **how):
        asked.append(mechanism)
        return synthesise(frame, mechanism=mechanism.removesuffix("-smartnoise"), **how)

    monkeypatch.setattr(study.synth, "synthesise", noted)
    study.simulate(settings(table, mechanism="mst-smartnoise"))
    assert set(asked) == {"mst-smartnoise", "task"}

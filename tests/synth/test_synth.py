"""Synthetic tables: budget, forest model, mechanisms, cache, utility and risk."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pet_lab import synth
from pet_lab.noise import Noise
from pet_lab.synth import api, forest, mechanisms
from pet_lab.synth.domain import Bins, code


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def table():
    """400 rows: b and y follow a; c is on its own."""
    rng = np.random.default_rng(5)
    a = rng.integers(0, 4, 400)
    b = (a + (rng.random(400) < 0.1)) % 4
    y = (a >= 2) ^ (rng.random(400) < 0.05)
    return pd.DataFrame(
        {"a": a, "b": b, "c": rng.choice(["u", "v", "w"], 400), "y": y.astype(np.int64)}
    )


# --- the forest ------------------------------------------------------------------------------


def measured(rng, sizes, edges, sigma):
    joint = rng.dirichlet(np.ones(int(np.prod(sizes)))).reshape(sizes) * 1000
    out = []
    for columns in [(i,) for i in range(len(sizes))] + edges:
        others = tuple(i for i in range(len(sizes)) if i not in columns)
        counts = joint.sum(axis=others)
        counts = counts if len(columns) == 1 or columns[0] < columns[1] else counts.T
        out.append(
            forest.Measurement(
                columns=columns, values=counts + rng.normal(0, sigma, counts.shape), sigma=sigma
            )
        )
    return out


@pytest.mark.parametrize("sigma", [20.0, 100.0])
def test_the_fit_is_the_one_of_mbi(sigma):
    """Step for step: the same tables after as many steps, converged or not, and far from it."""
    rng = np.random.default_rng(1)
    sizes, edges = [3, 4, 2, 5], [(0, 1), (2, 1), (3, 1)]
    ms = measured(rng, sizes, edges, sigma)
    with mechanisms.borrowed_randomness(Noise(1)):
        from mbi import Domain, LinearMeasurement, estimation, marginal_oracles

        noisy = [
            LinearMeasurement(m.values.flatten(), tuple(map(str, m.columns)), m.sigma) for m in ms
        ]
        for iterations, tolerance in ((7, 1e-9), (600, 1e-7)):
            theirs = estimation.mirror_descent(
                Domain([*"0123"], sizes),
                noisy,
                known_total=1000.0,
                iters=iterations,
                marginal_oracle=marginal_oracles.message_passing_stable,
            )
            ours = forest.fit_forest(sizes, ms, total=1000.0, iterations=iterations)
            for a, b in edges:
                want = np.asarray(theirs.project((str(a), str(b))).datavector(flatten=False)) / 1000
                assert np.abs(ours.pair(a, b) - want).max() < tolerance
        far = np.asarray(theirs.project(("0", "2")).datavector(flatten=False)) / 1000
    through = ours.pair(0, 1) @ np.diag(1 / ours.margins[1]) @ ours.pair(1, 2)
    assert np.abs(through - far).max() < 1e-7  # also of a pair that was not measured


def test_columns_alone_are_fitted_as_by_mbi():
    """What MST compares its pairs with before it knows a single one."""
    sizes = [4, 2, 3]
    ms = measured(np.random.default_rng(5), sizes, [], 30.0)
    ours = forest.fit_forest(sizes, ms, total=1000.0, iterations=50)
    with mechanisms.borrowed_randomness(Noise(1)):
        from mbi import Domain, LinearMeasurement, estimation, marginal_oracles

        theirs = estimation.mirror_descent(
            Domain([*"012"], sizes),
            [LinearMeasurement(m.values, tuple(map(str, m.columns)), m.sigma) for m in ms],
            known_total=1000.0,
            iters=50,
            marginal_oracle=marginal_oracles.message_passing_stable,
        )
        for i in range(3):
            want = np.asarray(theirs.project((str(i),)).datavector()) / 1000
            assert np.abs(ours.margins[i] - want).max() < 1e-7


def test_without_noise_the_margins_come_back():
    rng = np.random.default_rng(2)
    ms = measured(rng, [4, 3, 5], [(1, 0)], 1e-6)
    fit = forest.fit_forest([4, 3, 5], ms, total=1000.0)
    for i in range(3):
        assert np.abs(fit.margins[i] - ms[i].values / 1000).max() < 1e-4
    assert np.abs(fit.pair(1, 0) - ms[3].values / 1000).max() < 1e-4


def test_a_scaled_measurement_is_of_the_scaled_count():
    scale = np.array([1.0, 1.0, 0.5])
    counts = np.array([60.0, 30.0, 10.0])
    m = forest.Measurement(columns=(0,), values=counts * scale, sigma=1.0, scale=scale)
    fit = forest.fit_forest([3], [m], total=100.0)
    assert np.allclose(100 * fit.margins[0], counts, atol=1e-4)


@given(st.lists(st.floats(-100, 500), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_column_alone_gets_the_projection_on_the_simplex(values):
    """By definition: no other point of the simplex is nearer (checked along all edges)."""
    y = np.array(values)
    m = forest.Measurement(columns=(0,), values=y, sigma=1.0)
    x = 100.0 * forest.fit_forest([y.size], [m], total=100.0).margins[0]
    assert x.min() >= 0
    assert abs(x.sum() - 100) < 1e-4
    for i in range(y.size):
        corner = 100.0 * np.eye(y.size)[i]
        assert (y - x) @ (corner - x) < 5  # obtuse angle: a projection, as far as the steps lead


def test_a_cycle_is_refused():
    ms = measured(np.random.default_rng(0), [2, 2, 2], [(0, 1), (1, 2), (0, 2)], 1.0)
    with pytest.raises(ValueError, match="cycle"):
        forest.fit_forest([2, 2, 2], ms, total=1000.0)


def star(children=6, rows=5):
    """A root with independent children of many levels each."""
    ms = [forest.Measurement(columns=(0,), values=np.array([500.0, 500.0]), sigma=0.1)]
    for i in range(children):
        flat = np.full((2, rows), 500.0 / rows)
        ms.append(forest.Measurement(columns=(0, i + 1), values=flat, sigma=0.1))
    return forest.fit_forest([2] + [rows] * children, ms, total=1000.0)


def test_round_ties_siblings_together_and_the_other_ways_do_not():
    """The finding: by mbi's default, children that the model has independent rise together."""
    model, rng = star(), np.random.default_rng(3)
    drawn = {m: draw_matrix(model, m, rng) for m in ("round", "sample", "shuffled")}
    siblings = {m: abs(np.corrcoef(x[:, 1], x[:, 2])[0, 1]) for m, x in drawn.items()}
    assert siblings["round"] > 0.9
    assert max(siblings["sample"], siblings["shuffled"]) < 5 / np.sqrt(1000)
    unique = {m: len(np.unique(x, axis=0)) for m, x in drawn.items()}
    assert unique["round"] < 0.5 * min(unique["sample"], unique["shuffled"])
    # What rounding is for: the margins are met almost exactly.
    for m in ("round", "shuffled"):
        assert np.abs(np.bincount(drawn[m][:, 1]) - 200).max() <= 3


def draw_matrix(model, method, rng, rows=1000):
    return np.column_stack(forest.draw_rows(model, rows, method=method, rng=rng))


@pytest.mark.parametrize("method", ["round", "sample"])
def test_rows_are_those_of_mbi_from_the_same_stream(method):
    """Same model, same stream of random numbers: the very same table as mbi draws."""
    model = star(children=2, rows=3)
    with mechanisms.borrowed_randomness(Noise(0)):
        from mbi import CliqueVector, Domain, Factor, MarkovRandomField

        domain = Domain(["0", "1", "2"], [margin.size for margin in model.margins])
        cliques = [("0", "1"), ("0", "2")]
        tables = [model.pair(0, 1), model.pair(0, 2) / model.margins[0][:, None]]
        potentials = CliqueVector(
            domain,
            cliques,
            {
                c: Factor(domain.project(c), np.log(np.asarray(t)))
                for c, t in zip(cliques, tables, strict=True)
            },
        )
        field = MarkovRandomField(potentials=potentials, marginals=potentials.exp(), total=300)
        np.random.seed(11)  # noqa: NPY002
        theirs = field.synthetic_data(300, method=method).to_dict()
    ours = forest.draw_rows(model, 300, method=method, rng=np.random.RandomState(11))
    for i in range(3):
        assert np.array_equal(ours[i], np.asarray(theirs[str(i)]))


# --- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["mst", "task"])
def test_much_budget_keeps_the_table_and_little_does_not(table, mechanism):
    kept = {
        epsilon: synth.utility(
            table,
            synth.synthesise(
                table,
                mechanism=mechanism,
                target="y",
                strongest=2,
                epsilon=epsilon,
                rng_seed=3,
                method="shuffled",
            ).frame,
        )
        for epsilon in (1000.0, 0.05)
    }
    assert kept[1000.0].univariate.max() < 0.05
    assert kept[1000.0].correlation_with("y").loc["a"].diff().abs().max() < 0.1
    assert kept[0.05].mean_pairwise > 2 * kept[1000.0].mean_pairwise


def test_same_columns_types_and_repeatable(table):
    a, b, c = (
        synth.synthesise(table, epsilon=1.0, rng_seed=seed, cache=False) for seed in (1, 1, 2)
    )
    assert a.frame.equals(b.frame)
    assert not a.frame.equals(c.frame)
    assert a.frame.dtypes.equals(table.dtypes)
    assert len(a.frame) == len(table)


def test_without_a_seed_nothing_repeats_and_nothing_is_kept(table, tmp_path):
    a, b = (synth.synthesise(table, epsilon=1.0, rng_seed=None) for _ in range(2))
    assert not a.frame.equals(b.frame)
    assert not list(tmp_path.rglob("*.parquet"))
    assert not any("Seeded" in s for s in a.assumptions)


def test_global_randomness_is_left_alone(table):
    np.random.seed(4)  # noqa: NPY002
    want = np.random.random(3)  # noqa: NPY002
    np.random.seed(4)  # noqa: NPY002
    synth.synthesise(table, epsilon=1.0, rng_seed=1, cache=False)
    with mechanisms.borrowed_randomness(Noise(1)):
        np.random.random(10)  # noqa: NPY002
    assert np.array_equal(np.random.random(3), want)  # noqa: NPY002


def test_double_precision_stays_inside(table):
    import jax

    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", False)
    try:
        synth.synthesise(table, epsilon=1.0, rng_seed=1, cache=False)
        with mechanisms.borrowed_randomness(Noise(1)):
            pass
        assert jax.config.read("jax_enable_x64") is False
    finally:
        jax.config.update("jax_enable_x64", before)


def test_changing_a_record_costs_more_than_adding_one(table):
    """Two thirds of MST's budget are noisy counts (rho twice), a third the choice (4 times)."""
    at = {"epsilon": 1.0, "rng_seed": 1}
    mst = synth.synthesise(table, **at).assumptions[0]
    assert mst.endswith("costs 2.67 times the zCDP budget.")
    named = synth.synthesise(
        table, mechanism="task", target=table.columns[-1], strongest=[table.columns[0]], **at
    )
    assert named.assumptions[0].endswith("costs 2 times the zCDP budget.")


def test_assumptions_name_what_is_not_charged(table):
    domain = {"a": range(4), "b": range(4), "c": ("u", "v", "w"), "y": (0, 1)}
    open_ = synth.synthesise(table, epsilon=1.0, rng_seed=1).assumptions
    stated = synth.synthesise(table, epsilon=1.0, rng_seed=1, domain=domain, rows=400).assumptions
    assert any("4 of 4 columns are read off" in s for s in open_)
    assert any("number of rows is taken as public" in s for s in open_)
    assert any("stated without looking" in s for s in stated)
    assert all(any("added or removed" in s for s in a) for a in (open_, stated))


def test_merged_rare_levels_lose_weight_as_published_only():
    """smartnoise divides the merged count and forgets it: rare levels come out too rare."""
    frame = pd.DataFrame(
        {"a": [0] * 3000 + [1] * 3000 + list(range(2, 52)) * 20, "b": [0, 1] * 3500}
    )
    share = {
        published: np.mean(
            [
                (
                    synth.synthesise(
                        frame, epsilon=0.5, rng_seed=s, published=published, method="sample"
                    ).frame["a"]
                    > 1
                ).mean()
                for s in range(3)
            ]
        )
        for published in (True, False)
    }
    assert abs(share[False] - 1 / 7) < 0.04
    assert share[True] < 0.9 * share[False]  # the pairs pull back; 8 standard errors apart


def test_bins_are_kept_and_drawn_within():
    frame = pd.DataFrame({"x": np.linspace(0, 9.99, 300), "y": [0, 1] * 150})
    bins = Bins(edges=(0, 2, 5, 10))
    made = synth.synthesise(frame, epsilon=100.0, rng_seed=1, domain={"x": bins, "y": (0, 1)})
    counts = np.histogram(made.frame["x"], bins.edges)[0]
    assert np.abs(counts - [60, 90, 150]).max() < 15
    grades = Bins(edges=(0, 10, 20), integer=True)
    drawn = grades.draw(np.repeat([0, 1], 500), np.random.default_rng(0))
    assert set(drawn[:500]) == set(range(10))
    assert set(drawn[500:]) == set(range(10, 21))
    assert list(grades.codes(np.array([-5, 0, 9, 10, 20, 99]))) == [0, 0, 0, 1, 1, 1]


def test_whole_numbers_stay_whole_and_of_their_type():
    """Bins read off the data hold the whole numbers between the least and the largest, exactly."""
    n, far = 400, 2**62
    frame = pd.DataFrame(
        {
            "income": np.arange(n) * 97 + 20_000,
            "small": pd.Series(np.arange(n) % 3, dtype="int8"),
            "long": far + 3 * np.arange(n),
            "filled": np.arange(n, dtype=float),
            "share": np.linspace(0, 1, n),
        }
    )
    made = synth.synthesise(frame, epsilon=100.0, rng_seed=1, method="sample", cache=False).frame
    assert made.dtypes.equals(frame.dtypes)
    assert (made["filled"] == made["filled"].round()).all()
    assert (made["share"] != made["share"].round()).mean() > 0.9
    for name in ("income", "long"):
        assert frame[name].min() <= made[name].min() < made[name].max() <= frame[name].max()
        assert made[name].nunique() > 200, "drawn within the bins, not at their edges"
    halves = {"income": Bins(edges=(20_000, 30_000.5, 60_000))}
    stated = code(frame[["income"]], halves)
    drawn = stated.decode(stated.codes, np.random.default_rng(1))
    assert drawn.dtypes.equals(frame[["income"]].dtypes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mechanism": "gan"}, "mechanism is one of"),
        ({"method": "floor"}, "method is one of"),
        ({"method": "shuffled", "mechanism": "mst-smartnoise"}, "method is one of round, sample,"),
        ({"epsilon": 0.0}, "epsilon is a number above 0"),
        ({"delta": 1.0}, "delta is between 0 and 1"),
        ({"mechanism": "task"}, "needs a target"),
        ({"mechanism": "task", "target": "y", "strongest": ("y",)}, "no other column"),
        ({"domain": {"zz": (0, 1)}}, "table lacks: zz"),
        ({"domain": {"a": (0, 1)}}, "outside the stated domain"),
        ({"rows": 0}, "rows is a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_refused(table, change, said):
    with pytest.raises(ValueError, match=said):
        synth.synthesise(table, **({"epsilon": 1.0, "rng_seed": 1} | change))


def test_missing_values_are_refused(table):
    holed = table.astype({"a": float})
    holed.loc[3, "a"] = np.nan
    with pytest.raises(ValueError, match="missing in a"):
        synth.synthesise(holed, epsilon=1.0, rng_seed=1)


# --- cache -----------------------------------------------------------------------------------


def stored(tmp_path):
    return sorted((tmp_path / "cache" / "synthetic").iterdir())


def test_a_fit_is_kept_by_its_inputs(table, tmp_path, monkeypatch):
    first = synth.synthesise(table, epsilon=1.0, rng_seed=1)
    assert len(stored(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(api, "draw_mst", None)  # it is not called again
        again = synth.synthesise(table, epsilon=1.0, rng_seed=1)
    assert again.frame.equals(first.frame)
    assert again.frame.dtypes.equals(first.frame.dtypes)
    assert again.assumptions == first.assumptions
    other = table.copy()
    other.loc[0, "a"] = (other.loc[0, "a"] + 1) % 4
    synth.synthesise(other, epsilon=1.0, rng_seed=1)
    synth.synthesise(table, epsilon=1.0, rng_seed=1, method="sample")
    assert len(stored(tmp_path)) == 3


def test_a_half_written_cache_is_made_anew(table, tmp_path):
    want = synth.synthesise(table, epsilon=1.0, rng_seed=1)
    (kept,) = stored(tmp_path)
    whole = kept.read_bytes()
    kept.write_bytes(b"PAR1 cut")
    assert synth.synthesise(table, epsilon=1.0, rng_seed=1).frame.equals(want.frame)
    assert kept.read_bytes() == whole
    table.to_parquet(kept)  # without the facts that belong to it
    assert synth.synthesise(table, epsilon=1.0, rng_seed=1).frame.equals(want.frame)
    assert kept.read_bytes() == whole


# --- the package itself ----------------------------------------------------------------------


def test_the_package_agrees_with_our_fit(table):
    """At a huge budget both find the same tree and margins; wall time is bounded."""
    small = table[["a", "b", "y"]]
    started = time.perf_counter()
    theirs = synth.synthesise(
        small, mechanism="mst-smartnoise", epsilon=1000.0, rng_seed=1, method="sample"
    )
    assert time.perf_counter() - started < 60
    again = synth.synthesise(
        small,
        mechanism="mst-smartnoise",
        epsilon=1000.0,
        rng_seed=1,
        method="sample",
        cache=False,
    )
    assert again.frame.equals(theirs.frame)  # opendp's noise too comes from our seed
    ours = synth.synthesise(small, epsilon=1000.0, rng_seed=1, method="sample")
    assert theirs.frame.dtypes.equals(small.dtypes)
    # Two samples of 400 rows differ by about this much by chance alone.
    assert synth.utility(ours.frame, theirs.frame).univariate.max() < 0.12
    assert synth.utility(small, theirs.frame).univariate.max() < 0.12


def test_a_budget_beyond_the_packages_calibration_is_refused_in_one_sentence(table):
    with pytest.raises(
        ValueError, match=r"smartnoise-synth can calibrate, got epsilon = 1e\+06 .*\.$"
    ):
        synth.synthesise(table[["a", "b"]], mechanism="mst-smartnoise", epsilon=1e6, rng_seed=1)


# --- utility and risk ------------------------------------------------------------------------


def test_utility_of_a_copy_and_of_noise(table):
    same = synth.utility(table, table)
    assert same.univariate.max() == 0
    assert same.mean_pairwise == 0
    assert same.copies == len(table)
    assert same.unique_synthetic == len(table.drop_duplicates())
    rng = np.random.default_rng(0)
    shuffled = pd.DataFrame({c: rng.permutation(table[c].to_numpy()) for c in table})
    loose = synth.utility(table, shuffled)
    assert loose.univariate.max() == 0
    assert loose.mean_pairwise > 0.1
    assert abs(loose.correlation_with("y").loc["a", "synthetic"]) < 5 / 20


def test_utility_refuses_other_columns(table):
    with pytest.raises(ValueError, match="same columns"):
        synth.utility(table, table[["a"]])
    with pytest.raises(ValueError, match="need rows, they have 400 and 0"):
        synth.utility(table, table[:0])


def test_a_copy_is_riskier_than_an_independent_sample():
    pytest.importorskip("anonymeter", reason="needs the extra `attacks`")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 30, (180, 4)), columns=list("abcd"))
    real, control, other = (frame[i : i + 60].reset_index(drop=True) for i in (0, 60, 120))
    copied, fresh = (
        synth.risk(real, made, control=control, secret="d", n_attacks=40, seed=1).set_index(
            "attack"
        )
        for made in (real, other)
    )
    assert list(copied.index) == ["singling_out", "linkability", "inference"]
    assert copied.loc["inference", "risk_low"] > fresh.loc["inference", "risk"]
    assert copied.loc["linkability", "risk_low"] > fresh.loc["linkability", "risk"]


def test_every_mechanism_is_documented():
    assert all(f'"{name}"' in (api.synthesise.__doc__ or "") for name in synth.MECHANISMS)


@pytest.mark.slow
def test_a_seeded_table_by_aim_is_the_same_in_every_process(table, tmp_path):
    """Whatever the order in which a process iterates over sets of names."""
    table.to_parquet(tmp_path / "table.parquet")
    program = (
        "import sys, pandas as pd; from pet_lab import synth\n"
        f"frame = pd.read_parquet({str(tmp_path / 'table.parquet')!r})\n"
        "domain = {c: sorted(set(frame[c])) for c in frame}\n"
        "made = synth.synthesise(frame, mechanism='aim-smartnoise', epsilon=1.0, rng_seed=3,\n"
        "    domain=domain, options={'rounds': 4}, cache=False)\n"
        "sys.stdout.write(made.frame.to_csv())"
    )
    tables = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(tables[0].splitlines()) == len(table) + 1
    assert tables[0] == tables[1]

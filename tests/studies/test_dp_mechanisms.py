"""Mechanisms: closed forms, twins that draw bit by bit, the attack on low-order bits, refusals."""

import math
import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from pet_lab import accounting
from pet_lab.studies import dp_mechanisms as study


def settings(**changes):
    values = {"epsilon": 1.0, "delta": 0.05, "epsilons": [1.0], "users": [500], "share": 0.1}
    values |= {"answers": [0], "draws": 2000, "replicates": 3, "seed": 5}
    return study.Settings(**values | changes)


@given(st.sampled_from([0.1, 1.0, 3.0]), st.sampled_from([1e-8, 1e-3, 0.05]))
def test_gaussian_noise_is_as_small_as_epsilon_and_delta_allow(epsilon, delta):
    mu = 1 / study.sigma(epsilon, delta)
    assert accounting.gaussian_delta(mu=mu, epsilon=epsilon) == pytest.approx(delta, rel=1e-4)


def test_the_ratio_of_the_library_s_outputs_is_epsilon():
    rows = study.definition(settings(draws=8000))
    loss = rows[(rows["metric"] == "privacy_loss") & (rows["mechanism"] == "Laplace")]
    # Of a discrete Laplace the loss is +-epsilon at every output, to the sampling error.
    assert ((loss["value"].abs() - 1).abs() < 5 * loss["se"]).all()


@pytest.mark.parametrize("mechanism", ["exponential mechanism", "permute-and-flip"])
def test_the_library_chooses_as_the_closed_form_says(mechanism):
    rows = study.choosing(settings(draws=20_000))
    here = rows[(rows["mechanism"] == mechanism) & (rows["epsilon"] == 0.05)].iloc[0]
    votes, rate = np.array(study.VOTES, float), 0.05 / 2
    if mechanism == "permute-and-flip":  # the largest of votes plus exponential noise

        def wins(i):
            gaps = np.delete(votes[i] - votes, i)
            others = lambda x: np.prod(np.clip(1 - np.exp(-rate * (x + gaps)), 0, None))  # noqa: E731
            inside = lambda x: rate * math.exp(-rate * x) * others(x) * ((x + gaps) > 0).all()  # noqa: E731
            return integrate.quad(inside, 0, 2000, limit=500, points=[50, 200])[0]

        p = np.array([wins(i) for i in range(len(votes))])
        assert p.sum() == pytest.approx(1, abs=1e-3)
    else:
        p = np.exp(rate * (votes - votes.max()))
        p /= p.sum()
    assert abs(here["value"] - p @ (votes.max() - votes)) < 5 * here["se"]


def test_composition_never_costs_more_than_adding_up():
    wide = study.composition(settings()).pivot(index="answers", columns="rule", values="value")
    assert (wide["Laplace, composed"] <= wide["Laplace, added up"] + 1e-9).all()
    assert wide.loc[256, "Laplace, composed"] < 0.5 * wide.loc[256, "Laplace, added up"]


@pytest.mark.parametrize("method", study.METHODS)
@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_estimates_are_unbiased_and_err_as_the_closed_form_says(method, epsilon):
    rng, at = np.random.default_rng(3), {"epsilon": epsilon, "users": 400, "share": 0.25}
    got, true = study.estimates(method, **at, draws=40_000, rng=rng)
    sd = study.theory(method, **at)
    assert true == pytest.approx(0.5 if method == "1-bit mean" else 0.25)
    assert abs(got.mean() - true) < 5 * sd / 200
    assert got.std() == pytest.approx(sd, rel=0.02)


def test_binomials_stand_for_bits_of_single_users():
    """The slow twin: every user sends its bits, and the reports' ratio is e^epsilon."""
    rng, epsilon, users, items = np.random.default_rng(8), 1.0, 300, 5
    low, held = 1 / (math.e + 1), np.repeat(np.arange(items), users // items)
    got = []
    for _ in range(3000):
        p = np.where(held[:, None] == np.arange(items), 0.5, low)
        ones = (rng.random((users, items)) < p)[:, 0].sum()
        got.append((ones / users - low) / (0.5 - low))
    fast, true = study.estimates(
        study.METHODS[1], epsilon=epsilon, users=users, share=0.2, draws=3000, rng=rng
    )
    assert np.mean(got) == pytest.approx(true, abs=0.005)
    assert np.std(got) == pytest.approx(fast.std(), rel=0.07)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0])
def test_reports_keep_to_epsilon(epsilon):
    """Ratio of the probabilities of one report under two values of a user, at its worst."""
    dp = study.library()
    (_, one), (_, zero) = study.shares_of_ones("randomised response", epsilon, 0.5)
    assert dp.m.make_randomized_response_bool(one).map(1) == pytest.approx(epsilon)
    assert math.log(one / zero) == pytest.approx(epsilon)
    bits = [p for _, p in study.shares_of_ones("1-bit mean", epsilon, 0.5)]
    assert math.log(max(bits) / min(bits)) == pytest.approx(epsilon)
    (_, held), (_, other) = study.shares_of_ones("unary encoding (OUE)", epsilon, 0.5)
    # Two bits change: the one that was held and the one that now is.
    assert math.log(held * (1 - other) / ((1 - held) * other)) == pytest.approx(epsilon)


def test_oue_has_the_variance_of_the_paper_where_nobody_holds_the_item():
    for epsilon in (0.5, 1.0, 2.0):
        e = math.exp(epsilon)
        sd = study.theory(study.METHODS[1], epsilon=epsilon, users=100, share=0.0)
        assert sd**2 * 100 == pytest.approx(4 * e / (e - 1) ** 2)


def test_a_row_that_smartnoise_leaves_out_is_missing_and_not_the_end():
    rows = study.sql(settings(epsilon=1e-4, replicates=6))
    theirs = rows[(rows["engine"] == "smartnoise-sql") & (rows["metric"] == "error")]
    assert theirs["value"].isna().all()  # of six noisy counts some are below 0
    assert rows[rows["engine"] == "OpenDP"]["value"].notna().any()


def test_smartnoise_answers_from_sqlite_within_its_noise():
    with sqlite3.connect(":memory:") as connection:
        frame = study.people(1)
        frame.to_sql("people", connection, index=False)
        reader = study.smartnoise(connection, 20.0)
        count, total, mean = reader.execute(study.EVERYTHING)[1]
    assert abs(count - len(frame)) <= 3
    assert abs(total - frame["age"].sum()) < 300
    assert abs(mean - frame["age"].mean()) < 1
    assert mean == pytest.approx(total / count, rel=0.01)


def test_each_engine_s_errors_and_account():
    table = study.sql_table(study.sql(settings(replicates=8))).set_index(["engine", "query"])
    count, total = math.sqrt(2), math.sqrt(2) * 100  # of Laplace noise at epsilon 1
    age = study.people(5)["age"].mean()
    mean = math.hypot(total, count * age) / study.PEOPLE
    for query, closed in {"count": count, "sum": total, "mean": mean}.items():
        errors = table["error"].xs(query, level="query")
        assert ((errors < 3 * closed) & (errors > closed / 4)).all(), query
    assert table.loc["OpenDP", "epsilon_spent"].to_dict() == pytest.approx(
        {"count": 1, "sum": 1, "mean": 2}
    )
    # smartnoise-sql also charges the count that it adds to every query.
    assert table.loc["smartnoise-sql", "epsilon_spent"].to_dict() == pytest.approx(
        {"count": 1, "sum": 2, "mean": 3}
    )


@pytest.mark.parametrize("answer", [0, 1, 100])
def test_the_attack_never_rules_out_the_true_answer(answer):
    outputs = study.naive_laplace(answer, 10.0, 5000, np.random.default_rng(2))
    assert study.possible(outputs, answer, 10.0).all()


def test_ruled_out_means_that_no_uniform_leads_there():
    """Against a wide search: outputs that are called impossible stay so."""
    outputs = study.naive_laplace(0, 10.0, 200, np.random.default_rng(4))
    out = outputs[~study.possible(outputs, 1, 10.0)][:50]
    assert len(out) == 50
    nearest = np.rint(study.GRID * np.exp(-np.abs(out - 1) / 10))
    for output, start in zip(out, nearest, strict=True):
        u = np.clip(start + np.arange(-3000, 3001), 1, study.GRID) / study.GRID
        noise = np.array([10 * math.log(v) for v in u])
        assert not ((1 + noise == output) | (1 - noise == output)).any()


def test_low_bits_betray_the_textbook_s_sampler_and_not_the_library_s():
    rows = study.last_bits(settings(draws=20_000))
    success = rows[rows["metric"] == "success"].set_index("sampler")
    assert success["value"][study.NAIVE] > 0.75
    low = success["value"][study.LIBRARY] - 4 * success["se"][study.LIBRARY]
    assert low < study.ceiling() < 0.53


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"epsilon": 0.0},
            "epsilon is a number from 0.0001 to 50, got 0.0; more",
        ),
        ({"epsilons": [1.0, -1.0]}, "epsilon is a number from 0.0001 to 50, got -1.0; more"),
        ({"epsilons": []}, "epsilons is a list of 1 or more"),
        ({"delta": 0.0}, "delta is a number between 0 and 1, got 0.0."),
        ({"delta": 1.0}, "delta is a number between 0 and 1, got 1.0."),
        ({"delta": math.nan}, "delta is a number between 0 and 1, got nan."),
        ({"share": 1.5}, "share is a number from 0 to 1, got 1.5."),
        ({"users": [0]}, "smallest_number_of_users is a whole number of at least 1, got 0."),
        ({"answers": [-1]}, "smallest_answer is a whole number of at least 0, got -1."),
        ({"draws": 10}, "draws is a whole number of at least 100, got 10; fewer draws show"),
        ({"replicates": 1}, "replicates is a whole number of at least 2, got 1."),
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        settings(**changes)


def test_claims_turn_with_the_rows():
    chosen = settings()
    rows = study.simulate(chosen)
    claims = study.takeaways(rows, chosen)
    assert claims[0].holds
    assert claims[1].holds
    fair = rows.copy()
    fair.loc[(fair["part"] == "bits") & (fair["metric"] == "success"), "value"] = 0.5
    assert study.takeaways(fair, chosen)[1].text.startswith("Not here")


def test_the_panel_s_table_is_the_closed_form():
    table = study.explore(1.0, 100, 0.0).set_index("method")["error (RMS)"]
    assert table[study.CURATOR] == pytest.approx(math.sqrt(2) / 100)
    assert table["randomised response"] < table["unary encoding (OUE)"]

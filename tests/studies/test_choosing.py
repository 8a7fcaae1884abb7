"""Choosing: every technique against the plain answer, what messages hold, the aid, refusals."""

import numpy as np
import pandas as pd
import pytest

from pet_lab.paillier import CiphertextError
from pet_lab.studies import choosing as study


def settings(**changes):
    values = {"records": [40], "offices": 3, "epsilon": 1.0, "rounds": 1, "delay_ms": 25.0}
    return study.Settings(**values | {"megabits": 100.0, "replicates": 1, "seed": 5} | changes)


@pytest.fixture(scope="module")
def setup():
    return study.Setup(settings(epsilon=50.0), np.random.default_rng(7))


@pytest.fixture(scope="module")
def rows(setup):
    data = study.patients(setup.settings, setup.rng)
    once = study.known_attacks(setup.settings), study.slowdown(setup), study.polynomial()
    return study.concat(study.grid(setup, data, 40, replicate=3), *once, study.traffic(setup))


def aid(rows, **changes):
    first = {name: next(iter(study.QUESTIONS[name])) for name in ("holds", "answer", "trusted")}
    asked = {**first, "records": 1000, "error_percent": 5.0} | changes
    return study.remaining(study.sizes(rows), **asked).set_index("technique")


def test_a_chain_of_messages_and_its_readers():
    wire = study.Wire()
    wire.send(("a", "b", b"xy"), ("b", "a", b"z"))  # at the same time
    assert wire.rounds == 1
    wire.send(("a", "c", np.float64(3.5).tobytes()))
    wire.know("c", b"word")
    wire.ran(10, rounds=4)
    assert (wire.rounds, wire.sent.total()) == (6, 21)
    assert wire.read([3.5, 4.5]) == 0.5
    assert wire.read([3.5, 4.5], "c") == 0
    assert wire.read(["word"], "a", "b") == 1


@pytest.mark.parametrize("technique", [t for t in study.RUNS["sum"] if t not in study.PRIVATE])
def test_exact_sums_are_the_sums(setup, technique):
    table = np.random.default_rng(1).uniform(0, 5000, (7, 6)).round(2)
    parts = np.array_split(table, 3)
    total = study.RUNS["sum"][technique](setup, parts, study.Wire())
    assert total == pytest.approx(table.sum(axis=0), abs=1e-5)


def test_products_on_shares_are_products():
    x, y = (np.random.default_rng(s).integers(-(2**30), 2**30, (5, 3)) for s in (1, 2))
    wire = study.Wire()
    products = study.beaver(wire, study.share(wire, "a", x), study.share(wire, "b", y))
    assert (study.opened(wire, "c", products) == x * y).all()
    assert wire.rounds == 3


def test_noise_has_the_scale_of_its_budget(setup):
    draws = np.array([study.noise(setup, 6) for _ in range(1500)])
    deviations = draws.std(axis=0) / np.sqrt(2)
    wanted = np.array([5000.0] * 3 + [1.0] * 3) * 2 / 50  # two kinds share epsilon = 50
    assert deviations == pytest.approx(wanted, rel=0.2)  # 5 standard errors of 0.04
    assert study.noise(setup, 1).shape == (1,)


def test_rows_of_a_replicate_say_so(rows):
    assert (rows.loc[rows["part"] == "tasks", "replicate"] == 3).all()


def test_every_task_by_every_technique(rows):
    for task in study.TASKS:
        table = study.last(rows, task)
        exact = table.drop([t for t in study.PRIVATE if t in table.index])
        exact = exact.drop(study.FEDERATED) if task == "prediction" else exact
        assert exact["error"].max() < 1e-6, task
        assert set(study.RUNS[task]) | set(study.TEXT["absent"][task]) == set(study.TECHNIQUES)
        assert set(study.TEXT["learns"][task]) == set(study.RUNS[task])
        readers = {study.CLEAR} if task == "prediction" else {study.CLEAR, study.DP}
        assert table.index[table["read"] == 1].tolist() == [t for t in table.index if t in readers]
        assert table["read"].isin([0, 1]).all()


def test_bytes_are_those_of_theory(rows):
    each = rows[rows["part"] == "traffic"].set_index("protocol")["value"]
    assert each["Beaver, a product"] == 32
    assert each["shares of two servers, a row"] == 16
    assert 512 <= each["Paillier, a row"] < 513
    assert 64 <= each["Diffie-Hellman, a key"] < 67


def test_pillars_by_what_messages_hold(rows):
    closed = study.closed(rows, settings())
    assert closed[study.NOISY_HE] == set(study.PILLARS)
    assert closed[study.MASKED] == {"training data", "input", "output"}
    assert closed[study.CLEAR] == {"model"}
    assert closed[study.ENCLAVE] == {"input", "model"}  # the program gives both the score
    table = study.combinations(rows, settings()).set_index("combination")
    assert "model" in table.loc[study.MASKED, "closed by a part"]
    assert "model" not in table.loc[study.MASKED, "closed when run"]


def test_every_cell_of_the_slides_is_judged(rows):
    table = study.comparison(rows, settings())
    assert len(table) == 15
    assert set(table["borne out"]) == {"yes", "no", "–"}
    slow = study.comparison(rows, settings(megabits=1e9, delay_ms=1e-6))
    changed = table["borne out"] != slow["borne out"]
    assert table.loc[changed, ["criterion", "technique"]].to_numpy().tolist() == [
        ["Performance", "HE"],
        ["Performance", "MPC"],
    ]


def test_the_aid_leaves_what_the_answers_allow(rows):
    nobody, helpers, _, curator = study.QUESTIONS["trusted"]
    _, published = study.QUESTIONS["answer"]
    assert aid(rows, trusted=nobody).query("remains").index.tolist() == [study.MASKED]
    assert study.MPC in aid(rows, trusted=helpers).query("remains").index
    left = aid(rows, trusted=curator, answer=published).query("remains").index
    assert set(left) == {study.DP, study.MASKED}
    strict = aid(rows, trusted=curator, error_percent=0.0).query("remains").index
    assert not set(strict) & set(study.PRIVATE)
    join = list(study.QUESTIONS["holds"])[2]
    assert aid(rows, holds=join).loc[study.PSI, "remains"]
    assert "not applicable" in aid(rows, holds=join).loc[study.FEDERATED, "why not"]
    assert len(study.advice(rows)) == 16


def test_costs_lie_on_a_line_and_noisy_errors_fall():
    measured = pd.DataFrame(
        {"records": [10, 30], "cpu_s": [1.0, 2.0], "bytes": [100.0, 300.0], "rounds": 2.0}
        | {"error": [0.3, 0.1], "task": "sum", "technique": study.DP}
    ).set_index(["task", "technique"])
    expected = study.cost(measured, "sum", study.DP, 50)
    assert expected == pytest.approx({"cpu_s": 3.0, "bytes": 500, "rounds": 2, "error": 0.06})


def test_encrypted_predictions_grow_by_whole_ciphertexts(rows):
    measured = study.sizes(rows)
    one, three = (study.cost(measured, "prediction", study.HE, n) for n in (4096, 3 * 4096))
    assert three["bytes"] == pytest.approx(3 * one["bytes"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"holds": "everything"}, "holds is one of .* got 'everything'"),
        ({"trusted": "me"}, "trusted is one of .* got 'me'"),
        ({"records": 0}, "records is a whole number of at least 1, got 0"),
        ({"error_percent": -1}, "error_percent is a number from 0 to 100, got -1"),
    ],
)
def test_answers_outside_the_questions_are_one_sentence(rows, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        aid(rows, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"records": []},
        {"records": [39]},
        {"records": [20_000]},
        {"offices": 1},
        {"offices": 11},
        {"epsilon": 0.0},
        {"epsilon": 51.0},
        {"rounds": 0},
        {"delay_ms": 0},
        {"megabits": float("inf")},
        {"replicates": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_damaged_rows_are_refused(setup):
    message = study.encrypted_rows(setup, np.ones((2, 1)))
    with pytest.raises(CiphertextError, match="the message was cut short"):
        study.rows_of(setup, message[:-1])


def test_claims_turn_with_the_rows(rows):
    texts = [claim.text for claim in study.takeaways(rows, settings())]
    assert texts[0].startswith("No single technique closes all four pillars")
    at = (rows["technique"] == study.MASKED) & (rows["metric"] == "model")
    hidden = rows.assign(value=rows["value"].where(~at, 0.0))
    assert (
        "closes all four pillars, as the paper says" in study.takeaways(hidden, settings())[1].text
    )

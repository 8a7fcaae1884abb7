"""The owner's process and its accountant, the autoregressive model, claims that turn, refusals."""

import math

import msgspec
import numpy as np
import pandas as pd
import pytest

from pet_lab import accounting, data
from pet_lab.parties.errors import Refused
from pet_lab.rows import Rows
from pet_lab.studies import private_data_science as study

COLUMNS = ["sex", "guardian", "failures", "G2"]
DOMAIN = {"a": ["x", "y"], "b": [0, 1, 2], study.TARGET: ["no", "yes"]}


def settings(**changes):
    values = {"columns": COLUMNS, "total": 10.0, "epsilon": 2.0, "delta": 1e-5, "seed": 3}
    values |= {"group": "guardian", "inferred": "failures", "attacks": 10, "replicates": 1}
    return study.Settings(**values | changes)


@pytest.fixture(scope="module")
def table():
    return data.load("student_mat", stand_in=True).frame


def people(n=400, *, same=False):
    rng = np.random.default_rng(1)
    a, b = rng.choice(["x", "y"], n), rng.integers(0, 3, n)
    passed = np.where((a == "x") | same, "yes", "no")
    return pd.DataFrame({"a": a, "b": b, study.TARGET: passed})


def owner(folder, frame=None, **changes):
    given = {"domain": DOMAIN, "total": 10.0, "delta": 1e-5, "seed": 0, "folder": str(folder)}
    return study.TableOwner({"t": people() if frame is None else frame}, given | changes)


def answer(asked, request):
    return asked.answer([msgspec.json.encode(request)])[0]


def test_the_list_holds_public_values_and_costs_nothing(tmp_path):
    asked = owner(tmp_path)
    assert msgspec.json.decode(answer(asked, study.Listing())) == {"t": DOMAIN}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("total", "each", "n"), [(3.0, 0.5, 6), (0.3, 0.1, 3), (1.0, 0.3, 3)])
def test_a_budget_pays_for_its_floor_of_requests(total, each, n):
    (value,) = study.refusals([(total, each)])["value"]
    assert value == n == study.explore(total, each, -5)["value"].iloc[0]


@pytest.mark.parametrize(("total", "each"), [(3.0, 0.5), (10.0, 0.1), (2.0, 2.0)])
def test_an_exact_ledger_pays_for_at_least_as_many_answers_and_not_for_one_more(total, each):
    summed, most, noise = study.explore(total, each, -5)["value"]
    spent = accounting.gaussian_epsilon(mu=math.sqrt(most) / noise, delta=1e-5)
    beyond = accounting.gaussian_epsilon(mu=math.sqrt(most + 1) / noise, delta=1e-5)
    assert summed <= most
    assert spent <= total < beyond
    with pytest.raises(ValueError, match="more than the"):
        study.explore(total, total + 0.1, -5)


def test_what_is_spent_is_on_disk_before_the_work_and_outlives_the_owner(tmp_path):
    asked = owner(tmp_path, total=3.0)
    with pytest.raises(ValueError, match="4 weights"):  # fails at work, and is paid
        answer(asked, study.Synthesis("t", 2.0, errors_of=(1.0,)))
    with pytest.raises(ValueError, match=r"epsilon 3, 2 is spent, so 1.5 more.*1 or less\.$"):
        answer(owner(tmp_path, total=3.0), study.TrainingRequest("t", 1.5))
    assert answer(owner(tmp_path, total=3.0), study.TrainingRequest("t", 1.0))


def test_parts_of_delta_add_up_to_the_delta_granted(tmp_path):
    asked = owner(tmp_path, total=3.0)
    assert sum(asked.charge("t", e)[1] for e in (0.5, 1.0, 1.5)) == pytest.approx(1e-5)


def test_other_requests_draw_other_noise_and_the_same_request_the_same(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = owner(tmp_path / "one"), owner(tmp_path / "two")
    request = study.TrainingRequest("t", 1.0, epochs=2)
    first = answer(one, request)
    assert first == answer(two, request)
    assert first != answer(one, request)


def test_a_model_trained_inside_learns_what_its_labels_say(tmp_path):
    frame, asked = people(), owner(tmp_path)
    x = study.features(frame, DOMAIN)
    model = msgspec.json.decode(answer(asked, study.TrainingRequest("t", 5.0)), type=study.Weights)
    assert np.mean(study.predict(model, x) == (frame[study.TARGET] == "yes")) > 0.9
    turned = tuple(-w for w in model)
    request = study.TrainingRequest("t", 5.0, labels_by=turned)
    other = msgspec.json.decode(answer(asked, request), type=study.Weights)
    assert np.mean(study.predict(other, x) == study.predict(turned, x)) > 0.9


def test_labels_of_one_class_do_not_show_as_an_error(tmp_path):
    always = (0.0, 0.0, 0.0, 1.0)
    assert answer(owner(tmp_path), study.TrainingRequest("t", 1.0, labels_by=always))


def test_synthetic_rows_show_where_a_model_is_wrong(tmp_path):
    never = (0.0, 0.0, 0.0, -1.0)  # wrong on x, which passes
    request = study.Synthesis("t", 8.0, errors_of=never)
    made = pd.read_json(answer(owner(tmp_path), request).decode(), orient="split")
    share = (made[study.WRONG] == "yes").groupby(made["a"]).mean()
    assert share["x"] > 0.9 > 0.1 > share["y"]


def test_the_chain_is_a_product_of_conditionals_and_without_noise_finds_the_link():
    rng = np.random.default_rng(2)
    first = rng.integers(0, 2, 4000)
    second = np.where(rng.random(4000) < 0.9, first, 1 - first)
    z = np.column_stack([np.eye(2)[first], np.eye(2)[second]])
    weights = study.chain(z, [2, 2], noise=0.0, rate=0.5, steps=300, rng=rng)
    assert not weights[1:, :2].any()  # the first column depends on none
    assert not weights[3:, 2:].any()  # nor the second on itself
    drawn = study.sample_chain(weights, [2, 2], 4000, rng)
    share = np.mean(drawn[:, 0] == drawn[:, 1])
    assert 0.9 - 0.03 < share < 0.97  # clipping favours the frequent: 0.9 in the data


def test_one_record_moves_a_step_of_the_chain_by_at_most_the_clip():
    z = np.column_stack([np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[2, 0, 1, 1]]])
    how = {"noise": 0.0, "rate": 1.0, "steps": 1}
    after = study.chain(z, [3, 3], rng=np.random.default_rng(0), **how) * len(z) / -2.0
    less = study.chain(z[:3], [3, 3], rng=np.random.default_rng(0), **how) * 3 / -2.0
    assert 0 < np.linalg.norm(after - less) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"type": "rows", "table": "t"}, "none gives raw rows"),
        ({"type": "train", "table": "t", "epsilon": 1.0, "code": "x"}, "raw rows"),
        (
            study.TrainingRequest("t", 1.0, "nearest_neighbours"),
            "would let raw rows out",
        ),
        (study.TrainingRequest("t", 0.0), "epsilon is a number above 0, got 0"),
        (study.Synthesis("t", -1.0), "epsilon is a number above 0, got -1"),
        (study.Synthesis("t", 1.0, "copy"), "kind is one of MST, autoregressive, got 'copy'"),
        (study.Synthesis("../t", 1.0), "table is one of t, got"),
        (study.TrainingRequest("t", 11.0), "budget is epsilon 10, 0 is spent"),
    ],
)
def test_the_owner_refuses_in_one_sentence_and_free_of_charge(tmp_path, request_, sentence):
    with pytest.raises(ValueError, match=rf"{sentence}.*\.$"):
        answer(owner(tmp_path), request_)
    assert not list(tmp_path.iterdir())


def test_an_owner_does_not_open_a_table_of_one_class_or_with_unknown_values(tmp_path, table):
    with pytest.raises(ValueError, match="Expected two classes in passed, got one"):
        owner(tmp_path, people(same=True))
    with pytest.raises(ValueError, match="outside the stated domain"):
        owner(tmp_path, people().assign(b=7))
    with pytest.raises(ValueError, match="Expected two classes"):
        study.simulate(table, "G3>=0", settings())
    with pytest.raises(ValueError, match="none called"):
        study.simulate(table.drop(columns="G2"), "G3>=10", settings())


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": ["sex"]},
        {"columns": [*COLUMNS, "wage"]},
        {"total": 9.9},
        {"total": 0.0},
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"group": "age"},
        {"inferred": "age"},
        {"attacks": 9},
        {"replicates": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_spoilt_labels_are_those_of_the_rarest_group():
    frame = pd.DataFrame({"g": ["a", "a", "b"], study.TARGET: ["yes", "no", "yes"]})
    assert study.spoilt(frame, "g")[study.TARGET].tolist() == ["yes", "no", "no"]


def test_claims_turn_with_their_rows():
    rows = Rows()
    sources = [study.MST, study.CHAIN, study.INSIDE, study.PLAIN, study.COMMON, study.ANNOTATED]
    for replicate in range(2):
        for table, accuracy in zip(sources, (0.6, 0.5, 0.8, 0.9, 0.7, 0.75), strict=True):
            rows.add(table=table, replicate=replicate, metrics={"accuracy": accuracy})
        for table, distance in ((study.MST, 0.1), (study.CHAIN, 0.2)):
            rows.add(table=table, replicate=replicate, metrics={"distance": distance})
            rates = dict.fromkeys(study.RATES, 0.1) | {"excess": distance + replicate / 100}
            rows.add(table=table, replicate=replicate, attack="linkability", metrics=rates)
        for group, wrong in (("p", 0.6), ("q", 0.2)):
            shares = {"wrong": wrong, "wrong_truth": wrong}
            rows.add(group=group, replicate=replicate, metrics=shares)
    rows.add(metrics={"refused": 2, "alone": 0.5})
    frame = rows.frame()
    assert all(claim.holds for claim in study.takeaways(frame, settings()))
    shown = study.comparison(frame, settings()).set_index("approach")["given_away"]
    assert shown["trained inside"] == pytest.approx(np.tanh(1), abs=1e-4)
    turned = frame.assign(value=1 - frame["value"])
    turned.loc[turned["metric"] == "wrong", "value"] = [0.6, 0.2, 0.6, 0.2]
    turned.loc[turned["metric"] == "excess", "value"] = 0.0
    held = [claim.text for claim in study.takeaways(turned, settings()) if claim.holds]
    assert not held


@pytest.mark.slow
def test_the_workflow_through_a_process_is_repeatable_and_refuses_twice(table):
    once, again = (study.simulate(table, "G3>=10", settings()) for _ in range(2))
    assert (once.loc[once["metric"] == "refused", "value"] == 2).all()
    # anonymeter takes a column's distinct values from polars, which lists them in any order, and
    # draws its random links without a seed.
    drawn = (once["attack"] == "singling out") | (
        (once["attack"] == "linkability") & (once["metric"] == "rate_baseline")
    )
    assert once.loc[~drawn, "value"].tolist() == again.loc[~drawn, "value"].tolist()


@pytest.mark.slow
def test_the_budget_outlives_the_process(tmp_path, table):
    frame = table[COLUMNS].assign(**{study.TARGET: np.where(table["G3"] >= 10, "yes", "no")})
    process = study.owner([frame], str(tmp_path), settings())
    try:
        released = study.ask(process, study.TrainingRequest("table-0", 9.0, epochs=1))
        assert len(released) == study.features(frame, settings().domain).shape[1] + 1
        process.close()  # the next call starts another
        with pytest.raises(Refused, match="9 is spent, so 2 more is refused"):
            study.ask(process, study.TrainingRequest("table-0", 2.0))
    finally:
        process.close()

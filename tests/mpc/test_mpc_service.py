"""Parties as processes over mutual TLS: answers equal the clear ones, and every refusal."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from mpc_examples import POOLED, STATISTICS, X, Y

from pet_lab.mpc import clear, node, wire
from pet_lab.mpc.audit import Head, read, verify
from pet_lab.mpc.errors import Cheating, MpcError, PartyLost, Refused, TaskError
from pet_lab.mpc.service import PERMISSIVE, Owned, Service, same
from pet_lab.mpc.tasks import in_hours
from pet_lab.psi.certificates import TestAuthority, save

THREE = ("pp-1", "pp-2", "pp-3")
LINEAR = {"key": "id", "join": "opened", "target": "income", "predictors": ["age", "region"]}
LOGISTIC = {
    "key": "id",
    "join": "opened",
    "target": "ill",
    "predictors": ["age"],
    "iterations": 25,
}
POOL = {"group": "region", "value": "age"}
SIZE = {"key": "id", "join": "opened"}


@pytest.fixture(scope="module")
def three(owned):
    with Service(THREE, owned) as service:
        yield service


def expected(function, parameters, tables):
    return clear.answer(function, parameters, *tables, {**X, **Y})


# --- three processing parties -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "parameters", "terms"),
    [
        ("join_size", SIZE, {}),
        ("join_size", {**SIZE, "join": "hidden"}, {}),
        ("joined_statistics", STATISTICS, {}),
        ("joined_statistics", STATISTICS, {"level": "checked"}),
        ("joined_statistics", {**STATISTICS, "join": "hidden"}, {}),
        ("joined_linear_regression", LINEAR, {}),
        ("joined_linear_regression", LINEAR, {"level": "checked"}),
        ("joined_linear_regression", {**LINEAR, "join": "hidden"}, {}),
    ],
    ids=lambda v: v if isinstance(v, str) else v.get("join", v.get("level", "")),
)
def test_three_parties_get_what_the_clear_data_give(three, tables, function, parameters, terms):
    made = three.compute(function, parameters, **terms)
    assert same(made.table, expected(function, parameters, tables)), made.table
    assert made.decisions == dict.fromkeys(THREE, "approved")
    assert len(made.costs) == 3
    assert (made.costs["bytes"] > 0).all()


def test_the_logistic_regression_is_near_the_maximum_likelihood(three, tables):
    """Off by the polynomial (4 in 100 of a probability) and by stopping, not by the sharing."""
    made = three.compute("joined_logistic_regression", LOGISTIC)
    want = expected("joined_logistic_regression", LOGISTIC, tables)
    age = made.table["coefficient"][1], want["coefficient"][1]
    assert age[0] == pytest.approx(age[1], rel=0.25)
    joined = tables[0].merge(tables[1], on="id")
    ours, theirs = (
        1 / (1 + np.exp(-(t["coefficient"][0] + t["coefficient"][1] * joined["age"])))
        for t in (made.table, want)
    )
    assert np.abs(ours - theirs).max() < 0.06


def test_counts_on_paper_are_the_counts_of_the_run(three):
    for function, parameters in (
        ("join_size", SIZE),
        ("joined_statistics", STATISTICS),
        ("joined_linear_regression", LINEAR),
        ("joined_statistics", {**STATISTICS, "join": "hidden"}),
    ):
        made = three.compute(function, parameters)
        assert made.costs["products"].mean() == pytest.approx(made.estimate["products"], rel=0.15)
        assert made.costs["bytes"].mean() == pytest.approx(made.estimate["bytes"], rel=0.15)


def test_small_groups_and_dominated_totals_do_not_leave(three, tables):
    joined = tables[0].merge(tables[1], on="id")
    least = int(joined["region"].value_counts().min())
    made = three.compute("joined_statistics", STATISTICS, min_group=least + 1)
    counts = joined["region"].value_counts().reindex(X["region"].levels)
    assert made.table["count"].isna().tolist() == (counts <= least).tolist()
    assert made.public["withheld"] == list(np.flatnonzero(counts <= least))
    three_ages = {**STATISTICS, "value": "age"}
    share = (joined.groupby("region")["age"].max() / joined.groupby("region")["age"].sum()) * 100
    share = share.reindex(X["region"].levels)
    limit = int(share.median()) + 1
    made = three.compute("joined_statistics", three_ages, dominance_percent=limit)
    assert made.table["sum"].isna().tolist() == (share > limit).tolist()


def test_noise_is_added_by_the_parties(three, tables):
    made = three.compute("join_size", SIZE, epsilon=2.0)
    exact = len(tables[0].merge(tables[1], on="id"))
    assert abs(made.table["count"][0] - exact) < 40  # three draws of scale 1/2: never that far


def test_every_party_keeps_a_log_that_holds(three):
    three.compute("join_size", SIZE)
    verdicts = three.audit()
    assert set(verdicts["verdict"]) == {"holds"}
    assert (verdicts.set_index("party").loc[list(THREE), "witnesses"] > 0).all()


def test_a_tampered_log_is_found(three):
    three.compute("join_size", SIZE)
    entries, public = three.log("pp-1")
    witnesses = [Head(**e.body) for e in three.log("pp-2")[0] if e.kind == "witnessed"]
    mine = [h for h in witnesses if h.party == "pp-1"]
    verify(entries, public, mine)
    at = next(i for i, e in enumerate(entries) if e.kind == "approved")
    changed = [*entries]
    changed[at] = replace(changed[at], body={**changed[at].body, "function": "join_size2"})
    with pytest.raises(MpcError, match=f"Entry {at}"):
        verify(changed, public, mine)
    with pytest.raises(MpcError, match="cut off"):
        verify(entries[:at], public, mine)


def test_no_secret_is_on_a_command_line_or_in_a_log(three, tables):
    for name, one in three.nodes.items():
        arguments = " ".join(map(str, one.process.args))
        assert "key" not in arguments
        log = (three.folder / name / "audit.jsonl").read_text()
        assert not any(key in log for key in tables[0]["id"])
        assert ((three.folder / name / "sign.key").stat().st_mode & 0o077) == 0


# --- approvals and policies ---------------------------------------------------------------------


@pytest.fixture
def strict(three):
    """pp-3 allows one function only; afterwards it is permissive again."""
    three.set("pp-3", policy=replace(PERMISSIVE, functions=("join_size",)))
    yield three
    three.set("pp-3", policy=PERMISSIVE)


def test_two_of_three_approvals_compute_nothing(strict, tables):
    assert strict.decisions("joined_statistics", STATISTICS)["pp-1"] == "approved"
    with pytest.raises(Refused, match=r"2 of 3 approvals, so the data stay locked.*not on this"):
        strict.compute("joined_statistics", STATISTICS)
    assert same(strict.compute("join_size", SIZE).table, expected("join_size", SIZE, tables))


def test_an_owner_has_a_policy_too(three):
    three.set("px", policy=replace(PERMISSIVE, purposes=("statistics",)))
    with pytest.raises(Refused, match="px gives no data: Purpose 'marketing'"):
        three.compute("join_size", SIZE, purpose="marketing")
    three.set("px", policy=PERMISSIVE)


def test_an_output_party_that_insists_gets_no_data_from_the_owners(strict):
    strict.set("pz", faults=["push"])
    try:
        with pytest.raises(Refused, match="2 of 3 approvals: pp-3 did not approve"):
            strict.compute("joined_statistics", STATISTICS)
    finally:
        strict.set("pz", faults=[])


def test_an_unlisted_function_and_a_broken_budget(three):
    with pytest.raises(TaskError, match="not in the catalogue"):
        three.compute("median", SIZE)
    three.set("pp-2", policy=replace(PERMISSIVE, epsilon_total=0.01, max_queries=1000))
    said = three.decisions("join_size", SIZE, epsilon=1.0)
    assert "The budget is 0.01" in said["pp-2"]
    three.set("pp-2", policy=replace(PERMISSIVE, max_queries=1))
    assert "the limit of this party" in three.decisions("join_size", SIZE)["pp-2"]
    three.set("pp-2", policy=PERMISSIVE)


def test_an_expired_task_and_one_that_takes_hours(three):
    with pytest.raises(Refused, match="px gives no data: The task expired"):
        three.decisions("join_size", SIZE, expires=in_hours(-1))
    three.set("pz", policy=replace(PERMISSIVE, max_seconds=0.001))
    with pytest.raises(Refused, match=r"It would take about .* private set intersection"):
        three.compute("join_size", SIZE)
    three.set("pz", policy=PERMISSIVE)


def test_an_approval_works_once(three):
    made = three.compute("join_size", SIZE)
    entries, _ = three.log("pp-1")
    started = [e for e in entries if e.kind == "started"][-1]
    assert started.body["task"] == made.task.sha256
    message = {"do": "open", "task": made.task.sha256, "approvals": started.body["approvals"]}
    with pytest.raises(Refused, match="an approval is used only once"):
        three.nodes["pz"].order("send", to="pp-1", message=message)


def test_data_changed_after_the_approvals(three):
    three.set("py", faults=["change_data"])
    try:
        with pytest.raises(Refused, match="the data changed after it was approved"):
            three.compute("joined_statistics", STATISTICS)
    finally:
        three.set("py", faults=[])


def test_only_the_right_party_may_take_a_step(three):
    made = three.compute("join_size", SIZE)
    message = {"do": "propose", "task": made.task.as_json()}
    with pytest.raises(Refused, match="Only the output party"):
        three.nodes["px"].order("send", to="pp-1", message=message)
    with pytest.raises(Refused, match="no such request"):
        three.nodes["px"].order("send", to="pp-1", message={"do": "open the safe"})
    deposit = {"do": "deposit", "task": made.task.sha256, "share": "", "salt": ""}
    with pytest.raises(TaskError, match="provides no data"):
        three.nodes["pz"].order("send", to="pp-1", message=deposit)


# --- identity -----------------------------------------------------------------------------------


def knock(service, credentials, folder, to="pp-1"):
    """One message from outside, with somebody's certificate."""
    doors = wire.Doors(credentials.name, save(credentials, folder))
    (folder / "ca.pem").write_bytes(service.authority.certificate)
    member = next(m for m in service.members if m["name"] == to)
    asked = wire.ask(doors, wire.Member(**member), {"do": "describe"}, [])
    return asyncio.run(asked)


def test_an_unknown_certificate(three, tmp_path):
    with pytest.raises((Refused, PartyLost), match=r"turned us away|not accept"):
        knock(three, TestAuthority().issue("px"), tmp_path / "a")
    last = three.log("pp-1")[0][-1]
    assert last.kind == "turned away"
    assert "certificate was not accepted" in last.body["why"]


def test_an_expired_certificate(three, tmp_path):
    with pytest.raises((Refused, PartyLost), match=r"expired|not accept"):
        knock(three, three.authority.issue("px", days=-1), tmp_path / "a")
    assert "expired" in three.log("pp-1")[0][-1].body["why"]


def test_a_certificate_of_the_authority_that_is_no_member(three, tmp_path):
    with pytest.raises(Refused, match="not a member"):
        knock(three, three.authority.issue("guest"), tmp_path / "a")


def test_a_party_that_is_another_than_it_says(three, tmp_path):
    doors = wire.Doors("px", save(three.authority.issue("px"), tmp_path / "a"))
    member = next(m for m in three.members if m["name"] == "pp-1")
    wrong = wire.Member(**{**member, "name": "pp-2"})
    with pytest.raises(Refused, match="not accepted"):
        asyncio.run(wire.ask(doors, wrong, {"do": "describe"}, []))


def test_a_revoked_party_is_turned_away_for_good(three, tmp_path):
    """Somebody who is a member by certificate, and barred by pp-1's operator."""
    three.nodes["pp-1"].order("bar", party="guest", why="contract ended")
    with pytest.raises(Refused, match="revoked or excluded"):
        knock(three, three.authority.issue("guest"), tmp_path / "a")
    entries, _ = three.log("pp-1")
    assert entries[-1].kind == "turned away"


# --- deviations ---------------------------------------------------------------------------------


def test_a_wrong_product_stops_a_checked_task(three):
    three.set("pp-2", faults=["wrong_product"])
    try:
        with pytest.raises(Cheating, match="A product was computed wrongly"):
            three.compute("joined_statistics", STATISTICS, level="checked")
    finally:
        three.set("pp-2", faults=[])
    verdicts = three.audit()
    assert set(verdicts["verdict"]) == {"holds"}


def test_of_three_a_wrong_share_of_the_answer_is_found_but_not_named(three):
    three.set("pp-2", faults=["wrong_result"])
    try:
        with pytest.raises(Cheating, match="cannot be told") as caught:
            three.compute("join_size", SIZE)
        assert caught.value.suspects == ()
    finally:
        three.set("pp-2", faults=[])


def test_a_wrong_input_share_names_and_excludes_and_a_lost_party_is_named(owned):
    with Service(THREE, owned, faults={"pp-3": ["wrong_share"]}) as service:
        with pytest.raises(Cheating, match="pp-3 used a share other than the one px") as caught:
            service.compute("join_size", SIZE)
        assert caught.value.suspects == ("pp-3",)
        for name in ("pp-1", "pp-2", "pz"):
            entries, _ = service.log(name)
            assert [e.body["party"] for e in entries if e.kind == "excluded"] == ["pp-3"]
        with pytest.raises(Refused, match=r"pp-3 is revoked or excluded"):
            service.compute("join_size", SIZE)
        with pytest.raises(Refused, match="revoked or excluded"):
            service.nodes["pp-3"].order("send", to="pp-1", message={"do": "log"})
        restarted = node.load(service.folder / "pp-1")
        assert restarted.doors.barred == {"pp-3"}, "the log remembers what the process forgot"


def test_a_party_that_dies_and_one_that_is_missing(owned):
    with Service(THREE, owned, faults={"pp-2": ["die"]}) as service:
        with pytest.raises(PartyLost, match="pp-2") as caught:
            service.compute("joined_statistics", STATISTICS)
        assert caught.value.party == "pp-2"
        with pytest.raises(Refused, match=r"2 of 3 approvals.*pp-2 cannot be reached"):
            service.compute("join_size", SIZE)
        kinds = [e.kind for e in service.log("pp-1")[0]]
        assert "finished" not in kinds
        assert "aborted" in kinds
        assert set(service.audit()["verdict"]) == {"holds"}
        lines = read(service.folder / "pp-2" / "audit.jsonl")
        verify(lines, next(m for m in service.members if m["name"] == "pp-2")["public"])


# --- five parties, users that process, sums alone -----------------------------------------------


def test_five_parties_and_of_five_a_wrong_answer_is_corrected_and_named(owned, tables):
    with Service([f"pp-{i}" for i in range(1, 6)], owned) as service:
        for function, parameters, terms in (
            ("joined_statistics", STATISTICS, {"level": "checked"}),
            ("joined_linear_regression", LINEAR, {}),
            ("join_size", SIZE, {}),
        ):
            made = service.compute(function, parameters, **terms)
            assert same(made.table, expected(function, parameters, tables))
            assert made.task.threshold == 2
        service.set("pp-4", faults=["wrong_result"])
        made = service.compute("joined_statistics", STATISTICS)
        assert made.suspects == ("pp-4",)
        assert same(made.table, expected("joined_statistics", STATISTICS, tables))
        assert "pp-4 is revoked or excluded" in service.decisions("join_size", SIZE)["pp-4"]


def test_users_process_themselves_in_the_mixed_model(owned, tables):
    with Service(("px", "py", "pz"), owned) as service:
        made = service.compute("joined_statistics", {**STATISTICS, "join": "hidden"})
        assert made.task.model == "mixed"
        want = expected("joined_statistics", STATISTICS, tables)
        assert same(made.table, want)
        made = service.compute("joined_statistics", STATISTICS)
        assert same(made.table, want)
        assert any("which of its own records" in w for w in made.warnings)


@pytest.fixture
def pooled(tables):
    more = tables[0].assign(id=[f"Q{i}" for i in range(len(tables[0]))])
    return {
        "px": Owned(tables[0][["region", "age"]], POOLED),
        "py": Owned(more[["region", "age"]].iloc[:10], POOLED),
    }


def test_two_parties_can_add_and_are_warned_about(pooled):
    with Service(("pp-1", "pp-2"), pooled) as service:
        made = service.compute("pooled_statistics", POOL, level="all-but-one")
        frames = [o.frame for o in pooled.values()]
        assert same(made.table, clear.answer("pooled_statistics", POOL, *frames, POOLED))
        assert any("Only two" in w for w in made.warnings)
        with pytest.raises(TaskError, match="honest majority"):
            service.compute("pooled_statistics", POOL, level="majority")
        with pytest.raises(TaskError, match="K = 1"):
            service.compute("pooled_statistics", POOL, processing_parties=["pp-1"])
        service.set("pp-2", faults=["wrong_result"])
        with pytest.raises(Cheating, match="pp-2 sent a sum") as caught:
            service.compute("pooled_statistics", POOL, level="all-but-one")
        assert caught.value.suspects == ("pp-2",)


def test_pooled_statistics_and_aligned_files_among_three(pooled, tables):
    """Pooling, and the join when a private set intersection has come before it."""
    joined = pd.merge(*tables, on="id")
    aligned = {
        "px": Owned(joined[list(X)].rename(columns={"age": "years"}), _renamed(X)),
        "py": Owned(joined[list(Y)], Y),
    }
    with Service(("px", "py", "pz"), aligned) as service:
        parameters = {**STATISTICS, "join": "aligned"}
        made = service.compute("joined_statistics", parameters)
        assert same(made.table, expected("joined_statistics", STATISTICS, tables))
        assert made.costs["products"].max() < 3 * len(joined) + 100
        assert any("already know" in w for w in made.warnings)
        # The honest reverse: level majority trusts the parties to compute what was agreed.
        service.set("pz", faults=["wrong_product"])
        made = service.compute("joined_statistics", parameters)
        assert not same(made.table, expected("joined_statistics", STATISTICS, tables))
        service.set("pz", faults=["wrong_product"])
        with pytest.raises(Cheating, match="A product was computed wrongly"):
            service.compute("joined_statistics", parameters, level="checked")
    with Service(("px", "py", "pz"), pooled) as service:
        frames = [o.frame for o in pooled.values()]
        want = clear.answer("pooled_statistics", POOL, *frames, POOLED)
        for level in ("majority", "checked"):
            made = service.compute("pooled_statistics", POOL, level=level)
            assert same(made.table, want)


def _renamed(schema):
    return {("years" if k == "age" else k): v for k, v in schema.items()}


def test_the_messages_of_a_task_are_counted_without_their_content(three):
    made = three.compute("join_size", SIZE)
    kinds = set(made.messages["kind"])
    assert {"propose", "deposit", "open", "finish", "shares"} <= kinds
    shares = made.messages.query("kind == 'shares'")
    assert set(shares["sender"]) == set(THREE)
    assert shares["bytes"].sum() == made.costs["bytes"].sum()
    assert json.loads(made.messages.to_json()) is not None

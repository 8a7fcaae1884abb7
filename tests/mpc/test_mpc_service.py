"""Parties as processes over mutual TLS: answers equal the clear ones, and every refusal."""

import asyncio
import contextlib
import dataclasses
import os
import socket
import threading
import time
from collections import Counter

import msgspec
import numpy as np
import pandas as pd
import psutil
import pytest
from mpc_examples import POOLED, STATISTICS, X, Y, people
from msgspec.structs import replace

from pet_lab.mpc import clear, mesh, messages, node
from pet_lab.mpc.catalogue import PublicFacts
from pet_lab.mpc.clear import same
from pet_lab.mpc.errors import Cheating, TaskError
from pet_lab.mpc.service import PERMISSIVE, Owned, Service, heads
from pet_lab.mpc.tasks import in_hours
from pet_lab.parties import channel
from pet_lab.parties.certificates import TestAuthority, client_context, load
from pet_lab.parties.errors import PartyError, PeerLost, Refused
from pet_lab.parties.log import canonical, digest, read, verify
from pet_lab.studies.deviating.__main__ import Faults, Send

DEVIATING = "pet_lab.studies.deviating"
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
    with Service(THREE, owned, module=DEVIATING) as service:
        yield service


def misbehave(service, party, *faults):
    service.order(party, Faults(faults=faults))


def send(service, sender, to, request):
    """One party sends a message out of turn."""
    service.order(sender, Send(to=to, message=request))


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
        assert made.costs["products"].mean() == pytest.approx(made.estimate.products, rel=0.15)
        assert made.costs["bytes"].mean() == pytest.approx(made.estimate.bytes, rel=0.15)


def test_small_groups_and_dominated_totals_do_not_leave(three, tables):
    joined = tables[0].merge(tables[1], on="id")
    least = int(joined["region"].value_counts().min())
    made = three.compute("joined_statistics", STATISTICS, min_group=least + 1)
    counts = joined["region"].value_counts().reindex(X["region"].levels)
    assert made.table["count"].isna().tolist() == (counts <= least).tolist()
    assert made.public.withheld == tuple(np.flatnonzero(counts <= least))
    three_ages = {**STATISTICS, "value": "age"}
    share = (joined.groupby("region")["age"].max() / joined.groupby("region")["age"].sum()) * 100
    share = share.reindex(X["region"].levels)
    limit = int(share.median()) + 1
    made = three.compute("joined_statistics", three_ages, dominance_percent=limit)
    assert made.table["sum"].isna().tolist() == (share > limit).tolist()


# Every field that an entry about a task may have: none of them tells how many rows match.
LOGGED = {
    "prepared": {"data", "function"},
    "requested": {"task", "function"},
    "approved": {"task", "function", "owners", "output", "purpose", "epsilon", "data", "warnings"},
    "handed in": {"task", "data", "epsilon", "owners"},
    "deposited": {"task", "owner"},
    "started": {"task", "approvals"},
    "finished": {"task", "answer"},
    "received": {"task", "answers"},
    "witnessed": {"party", "n", "sha256", "signature"},
}


@pytest.mark.parametrize(
    ("function", "parameters", "terms"),
    [
        ("join_size", SIZE, {"epsilon": 0.05}),
        ("joined_statistics", STATISTICS, {"min_group": 5}),
        ("joined_linear_regression", LINEAR, {"min_group": 5}),
    ],
    ids=["noise", "smallest group", "regression"],
)
def test_only_what_the_checks_saw_leaves(three, tables, function, parameters, terms):
    """No count beside the answer, in the answer or in a log that any member may ask for."""
    exact = len(tables[0].merge(tables[1], on="id"))
    before = {name: len(three.log(name)[0]) for name in three.processes}
    made = three.compute(function, parameters, **terms)
    assert set(msgspec.to_builtins(made.public)) == {"withheld", "singular"}
    assert messages.Finished.__struct_fields__ == ("answer", "signature", "head")
    assert messages.SignedShares.__struct_fields__ == ("task", "party", "public", "shares", "salt")
    received, finished = {}, set()
    for name, n in before.items():
        for entry in three.log(name)[0][n:]:
            body = {k: v for k, v in entry.body.items() if k != "approvals"}
            assert exact not in body.values(), (name, entry)
            assert set(entry.body) == LOGGED[entry.kind], (name, entry)
            if entry.kind == "received":
                received = set(body["answers"])
            elif entry.kind == "finished":
                finished.add(body["answer"])
    assert received == finished
    assert len(finished) == 3
    sent = three.order("pz", node.TakeSent(), node.Messages)
    assert sent.costs == [], "products tell matches: costs stay with the processing parties"


def test_a_regression_of_few_rows_is_withheld_and_no_log_tells_that(three, tables):
    rows = len(tables[0].merge(tables[1], on="id"))
    with pytest.raises(TaskError, match="too few rows"):
        three.compute("joined_linear_regression", LINEAR, min_group=rows + 1)
    for name in THREE:
        body = [e.body for e in three.log(name)[0] if e.kind == "finished"][-1]
        facts = PublicFacts(withheld=(0,))
        guess = messages.SignedShares(body["task"], name, facts, (), "")
        assert body["answer"] != digest(canonical(guess)), "salted: nobody can try out the facts"


def test_noise_is_added_by_the_parties(three, tables):
    """Each of three adds discrete Laplace noise of scale 1 / epsilon = 10."""
    exact = len(tables[0].merge(tables[1], on="id"))
    counts = [three.compute("join_size", SIZE, epsilon=0.1).table["count"][0] for _ in range(4)]
    # A sum of three draws is 0 with probability 0.02, so four zeros have probability 2e-7 ...
    assert any(count != exact for count in counts)
    # ... and it exceeds 300 with probability below 1e-11.
    assert all(abs(count - exact) < 300 for count in counts)


def test_every_party_keeps_a_log_that_holds(three):
    three.compute("join_size", SIZE)
    verdicts = three.audit()
    assert set(verdicts["verdict"]) == {"holds"}
    assert (verdicts.set_index("party").loc[list(THREE), "witnesses"] > 0).all()


def test_a_tampered_log_is_found(three):
    three.compute("join_size", SIZE)
    entries, public = three.log("pp-1")
    mine = heads(three.log("pp-2")[0], "pp-1")
    verify(entries, "pp-1", public, mine)
    at = next(i for i, e in enumerate(entries) if e.kind == "approved")
    changed = [*entries]
    changed[at] = replace(changed[at], body={**changed[at].body, "function": "join_size2"})
    with pytest.raises(PartyError, match=f"Entry {at}"):
        verify(changed, "pp-1", public, mine)
    with pytest.raises(PartyError, match="cut off"):
        verify(entries[:at], "pp-1", public, mine)


def test_no_secret_is_on_a_command_line_or_in_a_log(three, tables):
    three.compute("join_size", SIZE)
    for name, process in three.processes.items():
        home = three.folder / name
        signing, pem = (home / "sign.key").read_bytes(), (home / "key.pem").read_text()
        secrets = {signing.hex(), *pem.splitlines()[1:-1], *map(str, tables[0]["id"])}
        places = {
            "arguments": " ".join(map(str, process.popen.args)),
            "log": (home / "audit.jsonl").read_text(),
            "console": str(process.events),
        }
        if os.path.exists(f"/proc/{process.popen.pid}/environ"):
            with open(f"/proc/{process.popen.pid}/environ") as environment:
                places["environment"] = environment.read()
        for place, text in places.items():
            assert not [s for s in secrets if s in text], (name, place)
        for file in ("sign.key", "key.pem"):
            assert ((home / file).stat().st_mode & 0o077) == 0


# --- approvals and policies ---------------------------------------------------------------------


@pytest.fixture
def strict(three):
    """pp-3 allows one function only; afterwards it is permissive again."""
    three.set_policy("pp-3", replace(PERMISSIVE, functions=("join_size",)))
    yield three
    three.set_policy("pp-3", PERMISSIVE)


def test_two_of_three_approvals_compute_nothing(strict, tables):
    assert strict.decisions("joined_statistics", STATISTICS)["pp-1"] == "approved"
    with pytest.raises(Refused, match=r"2 of 3 approvals, so the data stay locked.*is not allowed"):
        strict.compute("joined_statistics", STATISTICS)
    assert same(strict.compute("join_size", SIZE).table, expected("join_size", SIZE, tables))


def test_an_owner_has_a_policy_too(three):
    three.set_policy("px", replace(PERMISSIVE, purposes=("statistics",)))
    with pytest.raises(Refused, match="px gives no data: Purpose 'marketing'"):
        three.compute("join_size", SIZE, purpose="marketing")
    three.set_policy("px", PERMISSIVE)


def test_an_output_party_that_insists_gets_no_data_from_the_owners(strict):
    misbehave(strict, "pz", "push")
    try:
        with pytest.raises(Refused, match="2 of 3 approvals: pp-3 did not approve"):
            strict.compute("joined_statistics", STATISTICS)
    finally:
        misbehave(strict, "pz")


def test_an_unlisted_function_and_a_broken_budget(three):
    with pytest.raises(TaskError, match="not in the catalogue"):
        three.compute("median", SIZE)
    three.set_policy("pp-2", replace(PERMISSIVE, epsilon_total=0.01, max_queries=1000))
    said = three.decisions("join_size", SIZE, epsilon=1.0)
    assert "The budget is 0.01" in said["pp-2"]
    three.set_policy("pp-2", replace(PERMISSIVE, max_queries=1))
    assert "the limit of this party" in three.decisions("join_size", SIZE)["pp-2"]
    three.set_policy("pp-2", PERMISSIVE)


def test_an_expired_task_and_one_that_takes_hours(three):
    with pytest.raises(Refused, match="px gives no data: The task expired"):
        three.decisions("join_size", SIZE, expires=in_hours(-1))
    three.set_policy("pz", replace(PERMISSIVE, max_seconds=0.001))
    with pytest.raises(Refused, match=r"It would take about .* private set intersection"):
        three.compute("join_size", SIZE)
    three.set_policy("pz", PERMISSIVE)


def test_an_approval_works_once(three):
    made = three.compute("join_size", SIZE)
    entries, _ = three.log("pp-1")
    started = [e for e in entries if e.kind == "started"][-1]
    assert started.body["task"] == made.task.sha256
    message = {"do": "open", "task": made.task.sha256, "approvals": started.body["approvals"]}
    with pytest.raises(Refused, match="an approval is used only once"):
        send(three, "pz", "pp-1", message)


def test_data_changed_after_the_approvals(three):
    misbehave(three, "py", "change_data")
    try:
        with pytest.raises(Refused, match="the data changed after it was approved"):
            three.compute("joined_statistics", STATISTICS)
    finally:
        misbehave(three, "py")


def test_only_the_right_party_may_take_a_step(three):
    made = three.compute("join_size", SIZE)
    sha256, values = made.task.sha256, {"points": ["1"] * 3}
    with pytest.raises(Refused, match="Only the output party"):
        send(three, "px", "pp-1", {"do": "propose", "task": to_json(made.task)})
    with pytest.raises(Refused, match="Only the output party"):
        send(three, "px", "pp-1", {"do": "open", "task": sha256, "approvals": []})
    with pytest.raises(Refused, match="Only the output party"):
        send(three, "pp-2", "px", {"do": "prepare", "task": to_json(made.task), **values})
    with pytest.raises(Refused, match="not under way"):
        send(three, "pz", "pp-1", {"do": "finish", "task": sha256})
    with pytest.raises(Refused, match="has not approved this task"):
        send(three, "pz", "pp-1", {"do": "open", "task": "0" * 64, "approvals": []})
    with pytest.raises(TaskError, match="provides no data"):
        send(three, "pz", "pp-1", {"do": "deposit", "task": sha256, "share": "", "salt": ""})


def to_json(task):
    return msgspec.to_builtins(task)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b'{"do":"open the safe"}', "Invalid value"),
        (b'{"do":"describe","more":1}', "unknown field"),
        (b'{"do":"open","task":"xyz","approvals":[]}', "matching regex"),
        (b'{"do":"compare","task":"' + b"0" * 64 + b'","points":["1g"]}', "matching regex"),
        (b'{"do":"propose","task":{}}', "missing required field"),
        (b"[" * 5000, "Expected `object`"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "something else than a"),
        (b'{"do":"open","task":' + b"9" * 400 + b"}", "something else than a"),
        (b"not json", "malformed"),
    ],
    ids=lambda v: v[:20] if isinstance(v, bytes) else "",
)
def test_a_hostile_message_is_refused_in_one_sentence(three, raw, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        knock(three, three.authority.issue("px"), raw=raw)
    assert "Traceback" not in str(caught.value)
    three.order("pp-1", node.ShowLog())  # and it goes on


# --- identity -----------------------------------------------------------------------------------


def knock(service, credentials, to="pp-1", *, name="", raw=b'{"do":"describe"}'):
    """One message from outside, with somebody's certificate."""
    own = replace_ca(credentials, service.authority.certificate)
    member = service.members[to]

    async def talk():
        async with await channel.connect(own, name or to, member.host, member.port) as line:
            await line._send(channel.JSON, (raw,), "knock")
            return await line.receive(messages.Description)

    return asyncio.run(talk())


def replace_ca(credentials, ca):
    return dataclasses.replace(credentials, ca=ca)


def test_an_unknown_certificate(three):
    with pytest.raises((Refused, PeerLost), match=r"turned us away|left before"):
        knock(three, TestAuthority().issue("px"))
    last = three.log("pp-1")[0][-1]
    assert last.kind == "turned away"
    assert "certificate was not accepted" in last.body["why"]


def test_an_expired_certificate(three):
    with pytest.raises((Refused, PeerLost), match=r"expired|left before"):
        knock(three, three.authority.issue("px", days=-1))
    assert "expired" in three.log("pp-1")[0][-1].body["why"]


def test_a_certificate_of_the_authority_that_is_no_member(three):
    with pytest.raises(Refused, match="not a member"):
        knock(three, three.authority.issue("guest"))


def test_a_party_that_is_another_than_it_says(three):
    with pytest.raises(Refused, match="not accepted"):
        knock(three, three.authority.issue("px"), name="pp-2")


def test_a_revoked_party_is_turned_away_for_good(three):
    """Somebody who is a member by certificate, and barred by pp-1's operator."""
    three.order("pp-1", node.Bar(party="guest", why="contract ended"))
    with pytest.raises(Refused, match="revoked or excluded"):
        knock(three, three.authority.issue("guest"))
    entries, _ = three.log("pp-1")
    assert entries[-1].kind == "turned away"


# --- deviations ---------------------------------------------------------------------------------


def test_a_wrong_product_stops_a_checked_task(three):
    misbehave(three, "pp-2", "wrong_product")
    try:
        with pytest.raises(Cheating, match="A product was computed wrongly"):
            three.compute("joined_statistics", STATISTICS, level="checked")
    finally:
        misbehave(three, "pp-2")
    verdicts = three.audit()
    assert set(verdicts["verdict"]) == {"holds"}


def test_of_three_a_wrong_share_of_the_answer_is_found_but_not_named(three):
    misbehave(three, "pp-2", "wrong_result")
    try:
        with pytest.raises(Cheating, match="cannot be told") as caught:
            three.compute("join_size", SIZE)
        assert caught.value.suspects == ()
    finally:
        misbehave(three, "pp-2")


def test_a_wrong_input_share_names_and_excludes_and_a_lost_party_is_named(owned):
    with Service(THREE, owned, module=DEVIATING) as service:
        misbehave(service, "pp-3", "wrong_share")
        with pytest.raises(Cheating, match="pp-3 used a share other than the one px") as caught:
            service.compute("join_size", SIZE)
        assert caught.value.suspects == ("pp-3",)
        for name in ("pp-1", "pp-2", "pz"):
            entries, _ = service.log(name)
            assert [e.body["party"] for e in entries if e.kind == "excluded"] == ["pp-3"]
        with pytest.raises(Refused, match=r"pp-3 is revoked or excluded"):
            service.compute("join_size", SIZE)
        with pytest.raises(Refused, match="revoked or excluded"):
            send(service, "pp-3", "pp-1", {"do": "sendlog"})
        assert set(service.audit()["verdict"]) == {"holds"}
        restarted = node.Console(service.folder / "pp-1")
        barred = restarted.party.endpoint.barred
        assert barred == {"pp-3"}, "the log remembers what the process forgot"


def test_a_lying_owner_is_excluded_and_no_honest_party(owned):
    with Service(THREE, owned, module=DEVIATING) as service:
        misbehave(service, "px", "wrong_check_value")
        misbehave(service, "pp-1", "silent")
        with pytest.raises(Cheating, match=r"contradict each other.*nobody is excluded") as caught:
            service.compute("join_size", SIZE)
        assert set(caught.value.suspects) == {"px", "pp-1"}
        misbehave(service, "pp-1")
        with pytest.raises(Cheating, match="px signed a check value that its share") as caught:
            service.compute("join_size", SIZE)
        assert caught.value.suspects == ("px",)
        for name in (*THREE, "pz"):
            entries, _ = service.log(name)
            assert [e.body["party"] for e in entries if e.kind == "excluded"] == ["px"]


# --- the port of shares -------------------------------------------------------------------------


HALF = b"\x16\x03\x01\x02\x00\x01"  # a TLS handshake that never goes on
FRAME = (7).to_bytes(8, "little") + (200).to_bytes(4, "little") + bytes(200)  # of mpyc
GREETING = bytes(2) + bytes(16)  # of party 0 to mpyc, with a key for the shared randomness


class Strangers:
    """Connections to the port of shares of a party, always `most` of them open, until closed."""

    def __init__(self, port, first, most, *, tls=None, name=""):
        self.address, self.first, self.most = ("127.0.0.1", port), first, most
        self.tls, self.name = tls, name
        self.tried = self.heard = 0
        self._open, self._stop = [], threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set():
            try:
                line = socket.create_connection(self.address, timeout=1)
                self._open.append(line)
                self.tried += 1
                if self.tls is not None:
                    line = self._open[-1] = self.tls.wrap_socket(line, server_hostname=self.name)
                line.sendall(self.first)
                self.heard += 1
            except OSError:
                time.sleep(0.01)  # turned away, or nobody accepts now
            while len(self._open) > self.most:
                self._open.pop(0).close()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(20)
        for line in self._open:
            line.close()
        assert not self._thread.is_alive()


def in_time(service, *, within=60):
    """What comes of a task, which may be an error, and that it ends in time."""
    start = time.monotonic()
    try:
        return service.compute("join_size", SIZE).table
    except PartyError as error:
        return error
    finally:
        assert time.monotonic() - start < within


@pytest.mark.parametrize("who", ["silent", "half a handshake", "plain text", "other authority"])
def test_strangers_at_the_port_of_shares_hold_nobody_up(three, tables, who):
    """They hold 200 connections at each of two parties, which keep no more than they must.

    A member's handshake may be the oldest of a flood and make room: the task ends, in time and with
    a sentence, and one of the next is answered.
    """
    first = {"half a handshake": HALF, "plain text": b"GET / HTTP/1.0\r\n\r\n"}.get(who, b"")
    tls = None
    if who == "other authority":
        stranger = TestAuthority().issue("pp-1")
        tls = client_context(replace_ca(stranger, three.authority.certificate))
    with contextlib.ExitStack() as stack:
        floods = [
            stack.enter_context(
                Strangers(three.members[name].data_port, first, 200, tls=tls, name=name)
            )
            for name in ("pp-2", "pp-3")
        ]
        answered = 0
        for _ in range(30):  # the port is open during a task only, and a quick one sees few
            outcome = in_time(three)
            if isinstance(outcome, PartyError):
                assert str(outcome).endswith(".")
            else:
                assert same(outcome, expected("join_size", SIZE, tables))
                answered += 1
            files = psutil.Process(three.processes["pp-3"].popen.pid).num_fds()
            assert files < mesh.MOST_UNPROVEN + 40
            if answered > 1 and all(flood.tried > (0 if tls else 20) for flood in floods):
                break
        else:
            pytest.fail(f"{answered} answers, strangers: {[flood.tried for flood in floods]}")


@pytest.mark.parametrize(
    ("who", "first"),
    [
        ("px", GREETING + FRAME),
        ("pp-1", b""),
        ("pp-1", FRAME * 50),
        ("pp-1", GREETING + FRAME),
        ("pp-1", GREETING + b"\xff" * 4000),
    ],
    ids=["no party", "silent", "no greeting", "frames", "rubbish"],
)
def test_a_member_that_sends_rubbish_to_the_port_of_shares_spoils_one_task_at_most(
    three, tables, who, first
):
    """px is no party of the computation and is not heard; pp-1 is one and can end it."""
    tls = client_context(load(three.folder / who))
    with Strangers(three.members["pp-3"].data_port, first, 3, tls=tls, name="pp-3") as flood:
        for _ in range(10):
            made = in_time(three)
            if flood.heard:
                break
    assert flood.heard
    if who == "px" or not isinstance(made, PartyError):
        assert same(made, expected("join_size", SIZE, tables))
    assert same(in_time(three), expected("join_size", SIZE, tables))
    assert set(three.audit()["verdict"]) == {"holds"}


@pytest.mark.slow
def test_a_party_that_dies_and_one_that_is_missing(owned):
    with Service(THREE, owned, module=DEVIATING) as service:
        misbehave(service, "pp-2", "die")
        with pytest.raises(PeerLost, match="pp-2") as caught:
            service.compute("joined_statistics", STATISTICS)
        assert caught.value.party == "pp-2"
        with pytest.raises(Refused, match=r"2 of 3 approvals.*pp-2 cannot be reached"):
            service.compute("join_size", SIZE)
        kinds = [e.kind for e in service.log("pp-1")[0]]
        assert "finished" not in kinds
        assert "aborted" in kinds
        assert set(service.audit()["verdict"]) == {"holds"}
        lines = read(service.folder / "pp-2" / "audit.jsonl")
        verify(lines, "pp-2", service.members["pp-2"].public)


# --- five parties, users that process, sums alone -----------------------------------------------


@pytest.mark.slow
def test_five_parties_and_of_five_a_wrong_answer_is_corrected_and_named(owned, tables):
    with Service([f"pp-{i}" for i in range(1, 6)], owned, module=DEVIATING) as service:
        for function, parameters, terms in (
            ("joined_statistics", STATISTICS, {"level": "checked"}),
            ("joined_linear_regression", LINEAR, {}),
            ("join_size", SIZE, {}),
        ):
            made = service.compute(function, parameters, **terms)
            assert same(made.table, expected(function, parameters, tables))
            assert made.task.threshold == 2
        misbehave(service, "pp-4", "wrong_result")
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
        assert any("which of its own records" in w for w in made.task.warnings)


@pytest.fixture
def pooled(tables):
    more = tables[0].assign(id=[f"Q{i}" for i in range(len(tables[0]))])
    return {
        "px": Owned(tables[0][["region", "age"]], POOLED),
        "py": Owned(more[["region", "age"]].iloc[:10], POOLED),
    }


def test_two_parties_can_add_and_are_warned_about(pooled):
    with Service(("pp-1", "pp-2"), pooled, module=DEVIATING) as service:
        made = service.compute("pooled_statistics", POOL, level="all-but-one")
        frames = [o.frame for o in pooled.values()]
        assert same(made.table, clear.answer("pooled_statistics", POOL, *frames, POOLED))
        assert any("Only two" in w for w in made.task.warnings)
        with pytest.raises(TaskError, match="honest majority"):
            service.compute("pooled_statistics", POOL, level="majority")
        with pytest.raises(TaskError, match="K = 1"):
            service.compute("pooled_statistics", POOL, processing_parties=["pp-1"])
        misbehave(service, "pp-2", "wrong_result")
        with pytest.raises(Cheating, match="pp-2 sent a sum") as caught:
            service.compute("pooled_statistics", POOL, level="all-but-one")
        assert caught.value.suspects == ("pp-2",)
    with Service(("pp-1", "pp-2"), pooled, module=DEVIATING) as service:
        misbehave(service, "px", "wrong_check_value")
        with pytest.raises(Cheating, match="px signed a check value") as caught:
            service.compute("pooled_statistics", POOL, level="all-but-one")
        assert caught.value.suspects == ("px",)


@pytest.mark.slow
def test_pooled_statistics_and_aligned_files_among_three(pooled, tables):
    """Pooling, and the join when a private set intersection has come before it."""
    joined = pd.merge(*tables, on="id")
    aligned = {
        "px": Owned(joined[list(X)].rename(columns={"age": "years"}), _renamed(X)),
        "py": Owned(joined[list(Y)], Y),
    }
    with Service(("px", "py", "pz"), aligned, module=DEVIATING) as service:
        parameters = {**STATISTICS, "join": "aligned"}
        made = service.compute("joined_statistics", parameters)
        assert same(made.table, expected("joined_statistics", STATISTICS, tables))
        assert made.costs["products"].max() < 3 * len(joined) + 100
        assert any("already know" in w for w in made.task.warnings)
        # The honest reverse: level majority trusts the parties to compute what was agreed.
        misbehave(service, "pz", "wrong_product")
        made = service.compute("joined_statistics", parameters)
        assert not same(made.table, expected("joined_statistics", STATISTICS, tables))
        misbehave(service, "pz", "wrong_product")
        with pytest.raises(Cheating, match="A product was computed wrongly"):
            service.compute("joined_statistics", parameters, level="checked")
    with Service(("px", "py", "pz"), pooled) as service:
        frames = [o.frame for o in pooled.values()]
        want = clear.answer("pooled_statistics", POOL, *frames, POOLED)
        for level in ("majority", "checked"):
            made = service.compute("pooled_statistics", POOL, level=level)
            assert same(made.table, want)
        # Two people are in the west, and everybody knows the numbers of rows.
        made = service.compute("pooled_statistics", POOL, min_group=3)
        assert made.table["count"].isna().tolist() == [True, False, True]


def _renamed(schema):
    return {("years" if k == "age" else k): v for k, v in schema.items()}


def test_the_messages_of_a_task_are_counted_without_their_content(three, tables):
    made = three.compute("join_size", SIZE)
    counts = Counter(made.messages["kind"])
    # To and from pz: two owners, three processing parties; from each owner to each of three.
    expected = {"describe": 4, "prepare": 4, "handin": 4, "deposit": 12, "shares": 6}
    assert counts == {
        **expected,
        **dict.fromkeys(("propose", "open", "compare", "finish", "done"), 6),
    }
    sent = made.messages.set_index(["sender", "receiver", "kind"])["bytes"]
    assert sent["px", "pp-1", "deposit"] > 16 * (len(tables[0]) + 1)
    shares = made.messages.query("kind == 'shares'")
    assert set(shares["sender"]) == set(THREE)
    assert shares["bytes"].sum() == made.costs["bytes"].sum()
    assert list(made.messages) == ["sender", "receiver", "kind", "messages", "bytes"]


@pytest.mark.slow
def test_a_slow_network_costs_its_round_trips_and_changes_no_answer():
    """One-way delay of 50 ms: one for each of the rounds, four to connect, two a message."""
    tables = people(12, seed=5)
    owned = {"px": Owned(tables[0], X), "py": Owned(tables[1], Y)}
    with Service(THREE, owned, delay_s=0.05) as service:
        service.compute("join_size", SIZE)
        made = service.compute("join_size", SIZE)
    assert same(made.table, expected("join_size", SIZE, tables))
    # describe and prepare one owner after the other, propose one party after the other, hand in
    # with its deposits inside, open, check, finish, done
    exchanges = 2 + 2 + 3 + 2 + 4
    least = 0.05 * (6 * exchanges + made.costs["rounds"].max())
    assert least < made.wall_s < least + 3

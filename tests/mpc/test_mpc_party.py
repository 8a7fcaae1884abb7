"""One party without a network: what it reserves, opens, tells and refuses."""

import asyncio
import logging
from decimal import Decimal

import msgspec
import pytest
from mpc_examples import POOLED, task
from msgspec.structs import replace

from pet_lab import shares
from pet_lab.mpc import blame, catalogue
from pet_lab.mpc import messages as m
from pet_lab.mpc.node import ServiceParty
from pet_lab.mpc.policy import approve
from pet_lab.mpc.processor import Computation
from pet_lab.mpc.service import PERMISSIVE
from pet_lab.parties.certificates import TestAuthority, save
from pet_lab.parties.errors import PartyError, Refused
from pet_lab.parties.log import Signer

POINTS = ("2", "3", "4")
NAMES = ("px", "py", "pz", "pp-1", "pp-2", "pp-3")


@pytest.fixture
def authority():
    return TestAuthority()


@pytest.fixture
def party(tmp_path, authority, owned):
    """Makes a party that knows the others by their keys; what it asks them, they accept."""
    signers = {name: Signer(name) for name in NAMES}
    members = {
        n: m.Member(name=n, host="127.0.0.1", port=1, data_port=1, public=s.public)
        for n, s in signers.items()
    }

    async def accept(name, request, answer_type, *, within=30.0):
        return m.Accepted()

    def make(name, **policy):
        home = save(authority.issue(name), tmp_path / name)
        (home / "sign.key").write_bytes(signers[name].raw())
        if name in owned:
            owned[name].frame.to_csv(home / "data.csv", index=False)
            (home / "schema.json").write_bytes(msgspec.json.encode(owned[name].schema))
        one = ServiceParty(home, replace(PERMISSIVE, **policy))
        one.members, one.ask, one.signers = members, accept, signers
        return one

    return make


def answer(one, peer, request):
    return asyncio.run(one.answer(peer, request))


def draft(epsilon=None, other="py", **changes):
    """A draft about px, as the output party sends it to an owner."""
    one = task(epsilon=epsilon, **changes)
    refs = tuple(replace(d, commitments=("",) * 3) for d in one.inputs)
    return one.with_data(refs[0], replace(refs[1], owner=other))


def prepare(one, asked):
    return answer(one, asked.output_party, m.Prepare(task=asked, points=POINTS))


def hand_in(one, asked, prepared):
    made = asked.with_data(prepared.ref, asked.inputs[1])
    given = tuple(approve(one.signers[n], made) for n in made.processing_parties)
    return answer(one, made.output_party, m.HandIn(task=made, approvals=given))


# --- an owner's limits ----------------------------------------------------------------------------


def test_what_is_prepared_is_reserved(party):
    """Five tasks of 0.5 were prepared under a budget of 0.5, then all handed in."""
    px = party("px", epsilon_total=Decimal("0.5"))
    first = draft(0.5)
    prepared = prepare(px, first)
    with pytest.raises(Refused, match=r"px gives no data: The budget is 0.5, 0.5 is spent or res"):
        prepare(px, draft(0.5))
    assert hand_in(px, first, prepared).head.party == "px"
    with pytest.raises(Refused, match=r"0.5 is spent"):
        prepare(px, draft(0.1))


def test_limits_are_checked_again_at_hand_in(party):
    px = party("px", epsilon_total=Decimal(2))
    asked = draft(1.0)
    prepared = prepare(px, asked)
    px.policy = replace(PERMISSIVE, epsilon_total=Decimal("0.5"))
    with pytest.raises(Refused, match=r"The budget is 0.5, 0 is spent"):
        hand_in(px, asked, prepared)
    assert not list(px.log.of("handed in"))


@pytest.mark.parametrize(
    "change",
    [
        {"function": "join_size", "parameters": {"key": "id", "join": "opened"}},
        {"purpose": "marketing"},
        {"min_group": 0},
        {"processing_parties": ("pp-1", "pp-3", "pp-2")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_data_that_was_prepared_is_for_that_task_only(party, change):
    """All K approve another task under the same nonce; the owner prepared for the first."""
    px = party("px")
    asked = draft()
    prepared = prepare(px, asked)
    with pytest.raises(Refused, match="not the one that the data was prepared for"):
        hand_in(px, replace(asked, **change), prepared)
    assert not list(px.log.of("handed in"))


def test_an_account_is_of_a_data_set_whoever_the_partner_is(party):
    px = party("px", epsilon_total=Decimal(1))
    for partner in ("py", "pp-9"):
        asked = draft(0.5, other=partner)
        hand_in(px, asked, prepare(px, asked))
    with pytest.raises(Refused, match=r"The budget is 1, 1.0 is spent"):
        prepare(px, draft(0.5, other="pp-8"))
    pp = party("pp-1", epsilon_total=Decimal(1))
    pp.members |= {"pa": pp.members["py"], "pb": pp.members["py"]}
    for partner in ("py", "pa"):
        made = task(epsilon=0.5)
        made = made.with_data(made.inputs[0], replace(made.inputs[1], owner=partner))
        answer(pp, "pz", m.Propose(task=made))
    made = made.with_data(made.inputs[0], replace(made.inputs[1], owner="pb"))
    with pytest.raises(Refused, match=r"The budget is 1, 1.0 is spent"):
        answer(pp, "pz", m.Propose(task=made))


def test_a_reservation_lapses(party, monkeypatch):
    px = party("px", epsilon_total=Decimal("0.5"))
    asked = draft(0.5)
    prepared = prepare(px, asked)
    px._prepared[asked.nonce].until = 0.0
    with pytest.raises(Refused, match="No data was prepared"):
        hand_in(px, asked, prepared)
    prepare(px, draft(0.5))


def test_a_reservation_that_is_not_needed_is_withdrawn_by_who_made_it(party):
    px = party("px", epsilon_total=Decimal("0.5"))
    asked = draft(0.5)
    prepare(px, asked)
    answer(px, "py", m.Withdraw(nonce=asked.nonce))
    with pytest.raises(Refused, match="reserved"):
        prepare(px, draft(0.5))
    answer(px, "pz", m.Withdraw(nonce=asked.nonce))
    prepare(px, draft(0.5))


@pytest.mark.parametrize("budget", ["NaN", "-5", "Infinity"])
def test_a_budget_in_the_log_that_is_no_number_stops_the_party(party, budget):
    px = party("px")
    px.log.add("handed in", owners=["px", "py"], epsilon=budget)
    with pytest.raises(Refused, match="a budget that is no number"):
        prepare(px, draft(0.5))


# --- what is wrong with data stays with their owner -----------------------------------------------


@pytest.mark.parametrize("spoil", ["age", "region", "id"])
def test_what_is_wrong_with_the_data_is_told_to_the_operator_alone(party, caplog, spoil):
    px = party("px")
    frame = px._read()[1].astype(object)
    frame.loc[0, spoil] = "SECRET7" if spoil != "id" else frame.loc[1, "id"]
    frame.to_csv(px.home / "data.csv", index=False)
    with caplog.at_level(logging.WARNING), pytest.raises(Refused) as caught:
        prepare(px, draft())
    told = str(caught.value)
    assert told == "The data of px are not as their schema says; its operator knows more."
    assert spoil in caplog.text
    assert "SECRET7" not in str([e.body for e in px.log.entries])


def test_the_owner_reads_its_file_as_all_tables_are_read(party):
    px = party("px")
    rows = "id;region;age\n0012;north;1.234,0\n12;south;40\n"
    (px.home / "data.csv").write_bytes("\ufeff".encode() + rows.encode())
    _, frame = px._read()
    assert frame["id"].tolist() == ["0012", "12"]
    (px.home / "data.csv").write_text("id,region,age\nA,north,40,7\nB,south,41\n")
    with pytest.raises(Refused, match="operator knows more"):
        px._read()


# --- an accusation --------------------------------------------------------------------------------


@pytest.fixture
def case(party):
    """A share of px at pp-1, a case about it, and what was measured when it was put in."""
    pp, asked = party("pp-1"), task()
    p = catalogue.modulus(asked)
    row = [5] * (catalogue.length(asked, 0) + 1)
    deposit = m.Deposit(task=asked.sha256, share=shares.pack(row, p), salt=b"s" * 32)
    commitments = (shares.commit(deposit.share, deposit.salt), "00", "00")
    asked = asked.with_data(replace(asked.inputs[0], commitments=commitments), asked.inputs[1])
    right = f"{shares.check_value(row, 2, p):x}"
    pp._session = Computation(asked, {"px": deposit}, points=POINTS)
    pp._session.check_values["px"] = (right, "7", "7")

    def signed(value):
        values = (value, "7", "7")
        signature = pp.signers["px"].sign(m.signed_check_values(asked.nonce, "px", POINTS, values))
        return m.Justify(
            task=asked.sha256, owner="px", points=POINTS, check_values=values, signature=signature
        )

    return pp, signed, right


def guilty(pp, case, opening, *measured):
    return set(blame.guilty(pp._session.task, case, opening, measured, pp.publics))


def test_an_owner_that_signs_a_wrong_check_value_is_the_one_excluded(case):
    pp, signed, right = case
    lie = signed("abc")
    opening = answer(pp, "pz", lie)
    assert not opening.fits
    assert guilty(pp, lie, opening, right, "7", "7") == {"px"}
    answer(pp, "pz", m.Accuse(case=lie, opening=opening))
    assert pp.endpoint.barred == {"px"}


def test_a_share_is_opened_only_against_a_wrong_check_value(case):
    pp, signed, right = case
    opening = answer(pp, "pz", signed(right))
    assert (opening.fits, opening.share) == (True, b"")
    # Who put in another share than that, by what all measured, has said so itself.
    assert guilty(pp, signed(right), opening, "99", "7", "7") == {"pp-1"}
    with pytest.raises(Refused, match="owner's signature for these points"):
        answer(pp, "pz", replace(signed("abc"), points=("9", "3", "4")))
    with pytest.raises(Refused, match="owner's signature for these points"):
        answer(pp, "pz", replace(signed("abc"), check_values=("abf", "7", "7")))
    with pytest.raises(Refused, match="Only the output party"):
        answer(pp, "py", signed("abc"))


def test_nobody_is_guilty_by_an_opening_that_somebody_else_wrote(case):
    pp, signed, right = case
    lie = signed("abc")
    bare = replace(answer(pp, "pz", lie), share=b"another", signature="")
    for signer in ("px", "pz", "pp-2"):
        forged = replace(bare, signature=pp.signers[signer].sign(bare.signed))
        assert guilty(pp, lie, forged, right, "7", "7") == set()
    own = replace(bare, signature=pp.signer.sign(bare.signed))
    assert guilty(pp, lie, own, right, "7", "7") == {"pp-1"}


def test_an_opening_counts_against_the_commitment_only(case):
    """pp-1 put in another share, and opens that one as if px had given it."""
    pp, signed, right = case
    session = pp._session
    p, n = catalogue.modulus(session.task), catalogue.length(session.task, 0) + 1
    row = [6] * n
    used = f"{shares.check_value(row, 2, p):x}"
    bare = m.Opening(task=session.task.sha256, owner="px", party="pp-1", fits=False)
    bare = replace(bare, share=shares.pack(row, p), salt=session.deposits["px"].salt)
    own = replace(bare, signature=pp.signer.sign(bare.signed))
    assert guilty(pp, signed(right), own, used, "7", "7") == {"pp-1"}


def test_nobody_is_guilty_where_what_was_measured_is_what_was_signed(case):
    pp, signed, _ = case
    lie = signed("abc")
    opening = answer(pp, "pz", lie)
    assert guilty(pp, lie, opening, "abc", "7", "7") == set()
    assert guilty(pp, lie, opening) == set()  # or where nothing was measured here


# --- the own log ----------------------------------------------------------------------------------


def test_a_party_whose_log_lost_its_end_does_nothing_any_more(party):
    px = party("px")
    for i in range(3):
        px.log.add("refused", why=[str(i)])
    seen = px.log.head()
    del px.log.entries[2:]

    async def keeps(name, request, answer_type, *, within):
        if name == "py":
            raise Refused("py is not up yet.")
        return m.Accepted(head=seen if name == "pp-1" else None)

    px.ask = keeps
    with pytest.raises(PartyError, match="px does nothing until its log is restored"):
        asyncio.run(px.compare_log())
    with pytest.raises(Refused, match="its end was cut off"):
        answer(px, "pz", m.Describe())


def test_a_forged_head_stops_nobody(party):
    px = party("px")

    async def keeps(name, request, answer_type, *, within):
        return m.Accepted(head=replace(px.log.head(), n=7))

    px.ask = keeps
    asyncio.run(px.compare_log())
    assert answer(px, "pz", m.Describe()).rows == 24


def test_the_latest_head_is_kept_for_its_party(party):
    pp, other = party("pp-1"), party("pp-2")
    heads = [other.log.head()]
    other.log.add("policy")
    heads.insert(0, other.log.head())
    for head in heads:
        pp.witness([head])
    assert answer(pp, "pp-2", m.SendHead()).head == heads[0]
    assert answer(pp, "px", m.SendHead()).head is None


def test_nothing_that_shows_holds_a_share_or_key(party):
    px = party("px")
    asked = draft()
    prepare(px, asked)
    split = px._prepared[asked.nonce]
    deposit = m.Deposit(task="0" * 64, share=b"SECRET", salt=b"SECRET")
    texts = repr([split, deposit, Computation(asked, {"px": deposit}), px.signer, px.endpoint])
    assert "SECRET" not in texts
    assert str(split.rows[0][0]) not in texts


# --- an answer ------------------------------------------------------------------------------------


def test_a_noisy_task_is_answered_once(party):
    """Who could ask again would average the noise away for the budget of one answer."""
    terms = {"function": "pooled_statistics", "parameters": {"group": "region", "value": "age"}}
    refs = tuple(replace(d, schema=POOLED) for d in task().inputs)
    pp, asked = party("pp-1"), task(**terms, inputs=refs, level="all-but-one", epsilon=0.5)
    row = [[1] * (3 * 3 + 1)]
    pp._session = Computation(asked, {}, inputs=[row, row])
    assert len(answer(pp, "pz", m.Finish(task=asked.sha256)).answer.shares) == 10
    with pytest.raises(Refused, match="This task was answered before; its noise is drawn once"):
        answer(pp, "pz", m.Finish(task=asked.sha256))
    assert len(list(pp.log.of("finished"))) == 1

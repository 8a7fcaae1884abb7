"""One conformance test over all engines, and the privacy claims as assertions on the transcript."""

import math
import threading
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain import PlainEngine, elements_of

from pet_lab import psi
from pet_lab.parties.blocking import memory_pair
from pet_lab.parties.channel import Options
from pet_lab.psi.commands import _pack_state, _unpack_state
from pet_lab.psi.ecdh_proved import EcdhProvedEngine
from pet_lab.psi.messages import Hello
from pet_lab.psi.openmined import OpenMinedEngine
from pet_lab.psi.protocol import OwnFileError, encode_key
from pet_lab.psi.rsa_blind import RsaEngine
from pet_lab.psi.session import run_party
from pet_lab.psi.tokens import tables_for_linkers

ENGINES = [
    PlainEngine(),
    psi.EcdhEngine(),
    EcdhProvedEngine(),
    RsaEngine(2048),
    RsaEngine(2048, backend="gmpy2"),
    OpenMinedEngine(),
]
BOTH_LEARN = [e for e in ENGINES if e.symmetric]


def party(name, ids, **columns):
    return psi.DataHolder(
        name, pd.DataFrame({"business_id": pd.Series(ids, dtype=object), **columns})
    )


@pytest.fixture
def small_parties():
    left = party("statcan", [f"B{i:02d}" for i in range(60)] + ["x7"])
    right = party("cbs", [f"C{i:02d}" for i in range(40)] + ["B17", "B42", "x8"])
    return left, right


@pytest.mark.parametrize("engine", ENGINES, ids=repr)
def test_same_intersection_and_no_plaintext_on_the_wire(engine, small_parties):
    result = psi.intersect(engine, *small_parties, on="business_id")
    assert result.keys == {"B17", "B42"}
    assert result.left.rows.tolist() == [17, 42]
    if engine.symmetric:
        assert result.right.rows.tolist() == [40, 41]
        assert result.right.cardinality == 2
    if engine.name != "plain":
        for side in small_parties:
            assert not result.transcript.contains_any(side.values("business_id"))
    else:
        assert result.transcript.contains_any(["B17"])


@pytest.mark.parametrize("engine", BOTH_LEARN, ids=repr)
def test_both_sides_share_one_order_of_the_intersection(engine, small_parties):
    result = psi.intersect(engine, *small_parties, on="business_id")
    left, right = small_parties
    in_left = [left.values("business_id")[i] for i in result.left.positions]
    in_right = [right.values("business_id")[i] for i in result.right.positions]
    assert in_left == in_right
    assert result.left.link_key == result.right.link_key
    assert result.left.session == result.right.session


@given(
    left=st.sets(st.text(max_size=12).filter(str.strip), max_size=25),
    right=st.sets(st.text(max_size=12).filter(str.strip), max_size=25),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_ecdh_agrees_with_the_oracle_on_any_text(left, right):
    left, right = [s.encode("utf-8", "ignore").decode() for s in left], list(right)
    left = [s for s in left if s]
    right = [t for s in right if (t := s.encode("utf-8", "ignore").decode())]
    sides = party("a", list(dict.fromkeys(left))), party("b", list(dict.fromkeys(right)))
    want = psi.intersect(PlainEngine(), *sides, on="business_id")
    got = psi.intersect(psi.EcdhEngine(), *sides, on="business_id")
    assert got.keys == want.keys
    assert got.right.rows.tolist() == want.right.rows.tolist()


# The peer library refuses empty sets, so it is not among these.
@pytest.mark.parametrize("engine", BOTH_LEARN, ids=repr)
@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        ([], [], set()),
        ([], ["a", "b"], set()),
        (["a", "b"], [], set()),
        (["a", "b"], ["c"], set()),
        (["a"], ["a"], {"a"}),
        (["007", "é", "x y"], ["7", "é", "X Y", "007"], {"007", "é"}),
    ],
    ids=["both empty", "left empty", "right empty", "disjoint", "equal", "zeros, unicode, spaces"],
)
def test_small_and_odd_sets(engine, left, right, common):
    result = psi.intersect(engine, party("a", left), party("b", right), on="business_id")
    assert result.keys == common


@pytest.mark.parametrize("engine", [PlainEngine(), psi.EcdhEngine(), OpenMinedEngine()], ids=repr)
def test_cardinality_tells_the_number_only(engine, small_parties):
    result = psi.intersect(engine, *small_parties, on="business_id", variant="cardinality")
    assert result.cardinality == 2
    assert result.left.positions is None
    assert result.right.positions is None
    assert result.keys is None


def test_cardinality_hides_which_elements_are_common(small_parties):
    # The returned set is shuffled: its order is not that in which the elements were received, so
    # the receiver cannot attribute a match. With 61 elements the chance of equality is 1/61!.
    result = psi.intersect(
        psi.EcdhEngine(), *small_parties, on="business_id", variant="cardinality"
    )
    assert len(elements_of(result.transcript, kind="twice_blinded", sender="cbs")) == 61
    with pytest.raises(psi.PsiError, match="cannot answer cardinality"):
        psi.intersect(RsaEngine(2048), *small_parties, on="business_id", variant="cardinality")


def test_enrichment_hands_over_named_columns_of_the_intersection_only(small_parties):
    left = party(
        "istat",
        ["a", "b", "c"],
        age=["20-28", "29-35", "< 20"],
        secret=["hidden-1", "hidden-2", "hidden-3"],
    )
    right = party("bank", ["c", "d", "a"], income=["LOW", "HIGH", "MID"])
    for engine in (psi.EcdhEngine(), EcdhProvedEngine(), RsaEngine(2048), PlainEngine()):
        result = psi.intersect(
            engine,
            left,
            right,
            on="business_id",
            variant="enrichment",
            left_columns=["age"],
            right_columns=["income"],
        )
        ids = left.frame["business_id"].to_numpy()[result.left.positions]
        assert dict(zip(ids, result.left.enriched["income"], strict=True)) == {
            "a": "MID",
            "c": "LOW",
        }
        assert dict(zip(ids, result.right.enriched["age"], strict=True)) == {
            "a": "20-28",
            "c": "< 20",
        }
        crossed = b"".join(m.payload for m in result.transcript)
        for hidden in (b"29-35", b"HIGH", b"hidden-", b"secret"):
            assert hidden not in crossed


def test_enrichment_needs_a_unique_key():
    left, right = party("a", ["k", "k"], v=["1", "2"]), party("b", ["k"], w=["3"])
    with pytest.raises(psi.PsiError, match="enrichment needs a unique key"):
        psi.intersect(psi.EcdhEngine(), left, right, on="business_id", variant="enrichment")


@pytest.mark.parametrize(
    "engine", [psi.EcdhEngine(), EcdhProvedEngine(), RsaEngine(2048)], ids=repr
)
def test_sizes_on_the_wire_tell_the_sizes_of_the_sets_and_no_more(engine):
    def sizes(left, right):
        result = psi.intersect(engine, party("a", left), party("b", right), on="business_id")
        return [
            (m.sender, m.kind, m.count, m.width)
            for m in result.transcript
            if m.kind not in {"hello", "stream", "end", "matched"}
        ]

    short = sizes([f"{i}" for i in range(30)], [f"{i}" for i in range(10, 30)])
    long = sizes([f"{i}" * 40 for i in range(30)], [f"{i}" * 40 for i in range(5, 25)])
    assert sorted(short) == sorted(long)


@pytest.mark.parametrize(
    "engine", [psi.EcdhEngine(), EcdhProvedEngine(), RsaEngine(2048)], ids=repr
)
def test_the_order_of_the_file_is_not_on_the_wire(engine):
    # Each party sees its own elements come back. If the peer's set were in file order, the place of
    # a common element in it would be its row. Shuffled, the correlation is that of chance.
    n, runs, kind = 50, 12, "tags" if engine.name == "rsa" else "blinded"
    ids = [f"{i:03d}" for i in range(n)]
    places = []
    for _ in range(runs):
        result = psi.intersect(engine, party("a", ids), party("b", ids), on="business_id")
        sent = elements_of(result.transcript, kind=kind, sender="b")
        assert len(sent) == n
        if engine.name != "rsa":
            # The initiator returned the responder's elements in the order received, twice blinded;
            # sorted, they are the shared order of `positions`.
            twice = elements_of(result.transcript, kind="twice_blinded", sender="a")
        else:
            twice = sent
        rank = np.argsort(np.argsort(twice))
        places.append(np.corrcoef(result.right.positions[rank], np.arange(n))[0, 1])
    # Under a random permutation each correlation has variance 1/(n-1): the mean is within 5 sd.
    assert abs(np.mean(places)) < 5 / math.sqrt((n - 1) * runs)


@pytest.mark.parametrize("engine", [psi.EcdhEngine(), EcdhProvedEngine()], ids=repr)
def test_two_sessions_share_no_element(engine, small_parties):
    first, second = (psi.intersect(engine, *small_parties, on="business_id") for _ in "ab")
    for kind in ("blinded", "twice_blinded"):
        for sender in ("statcan", "cbs"):
            a = elements_of(first.transcript, kind=kind, sender=sender)
            b = elements_of(second.transcript, kind=kind, sender=sender)
            assert not set(a) & set(b)
    assert first.left.session != second.left.session
    assert first.left.link_key != second.left.link_key


def test_nothing_secret_is_shown_by_repr(small_parties, tmp_path):
    result = psi.intersect(psi.EcdhEngine(), *small_parties, on="business_id")
    shown = repr(result) + repr(small_parties)
    assert repr(result.left.link_key)[2:-1] not in shown
    shown += repr(small_parties[0].key_set("business_id"))
    kept = tmp_path / "state"
    kept.write_bytes(_pack_state(result.left, ["id"]))
    shown += repr(_unpack_state(kept))
    assert "B17" not in shown
    assert "link_key" not in shown


# -- keys ------------------------------------------------------------------------------------------


def test_composite_keys_keep_their_parts_apart():
    assert encode_key(["ab", "c"]) != encode_key(["a", "bc"])
    left = psi.DataHolder("a", pd.DataFrame({"x": ["ab", "q"], "y": ["c", "r"]}))
    right = psi.DataHolder("b", pd.DataFrame({"x": ["a", "q"], "y": ["bc", "r"]}))
    result = psi.intersect(psi.EcdhEngine(), left, right, on=["x", "y"])
    assert result.keys == {("q", "r")}


def test_two_spellings_of_one_letter_are_one_key():
    left, right = party("a", ["caf\u00e9"]), party("b", ["cafe\u0301"])
    assert psi.intersect(psi.EcdhEngine(), left, right, on="business_id").cardinality == 1


def test_numbers_are_refused_as_keys_because_zeros_are_lost():
    left = psi.DataHolder("a", pd.DataFrame({"id": [7, 8]}))
    right = psi.DataHolder("b", pd.DataFrame({"id": ["007", "008"]}))
    with pytest.raises(psi.PsiError, match="leading zeros may be lost"):
        psi.intersect(psi.EcdhEngine(), left, right, on="id")


def test_missing_keys_are_refused_or_left_out_by_name():
    left, right = party("a", ["k", None, ""]), party("b", ["k", "m"])
    with pytest.raises(psi.PsiError, match="2 of 3 rows lack a part of"):
        psi.intersect(psi.EcdhEngine(), left, right, on="business_id")
    result = psi.intersect(psi.EcdhEngine(), left, right, on="business_id", missing="drop")
    assert result.left.rows.tolist() == [0]


def test_a_key_that_lacks_a_part_does_not_link():
    # Both Bobs lack a year of birth: they are not known to be one.
    rows = pd.DataFrame({"name": ["ann", "bob"], "born": ["1990", ""]})
    left, right = psi.DataHolder("a", rows), psi.DataHolder("b", rows)
    with pytest.raises(psi.PsiError, match=r"1 of 2 rows lack a part of \['name', 'born'\]"):
        psi.intersect(psi.EcdhEngine(), left, right, on=["name", "born"])
    result = psi.intersect(psi.EcdhEngine(), left, right, on=["name", "born"], missing="drop")
    assert result.keys == {("ann", "1990")}


def test_who_is_told_nothing_says_not_known_and_has_no_rows():
    left, right = party("a", ["k", "m"]), party("b", ["k"])
    result = psi.intersect(OpenMinedEngine(), left, right, on="business_id")
    assert result.left.cardinality == 1
    assert result.right.cardinality is None
    assert result.right.positions is None
    with pytest.raises(psi.PsiError, match="nobody here knows the rows"):
        tables_for_linkers(right, result.right, on="business_id")
    counted = psi.intersect(OpenMinedEngine(), left, right, on="business_id", variant="cardinality")
    assert (counted.left.cardinality, counted.right.cardinality) == (1, None)


@pytest.mark.parametrize("fault", ["unknown key", "unknown column", "no key", "repeats", "long"])
def test_an_error_about_a_file_does_not_travel(fault):
    # Names of columns, counts of rows and cells are the file's owner's business.
    frame = pd.DataFrame({"id": ["k", "m"], "diagnosis": ["x" * 80, "y"]})
    if fault == "no key":
        frame.loc[1, "id"] = None
    if fault == "repeats":
        frame.loc[1, "id"] = "k"
    on = "nope" if fault == "unknown key" else "id"
    column = "nope" if fault == "unknown column" else "diagnosis"

    def mine(channel):
        run_party(
            psi.EcdhEngine(),
            channel,
            psi.DataHolder("a", frame),
            role="initiator",
            on=on,
            variant="enrichment",
            columns=[column],
        )

    def theirs(channel):
        run_party(
            psi.EcdhEngine(),
            channel,
            psi.DataHolder("b", pd.DataFrame({"id": ["k"], "size": ["s"]})),
            role="responder",
            on="id",
            variant="enrichment",
            columns=["size"],
        )

    own, peers = both(mine, theirs)
    assert isinstance(own, OwnFileError)
    assert str(peers) == "The file of a does not fit this session."


def test_duplicate_keys_are_one_element_and_all_their_rows():
    left, right = party("a", ["k", "k", "m"]), party("b", ["k", "k", "k"])
    result = psi.intersect(psi.EcdhEngine(), left, right, on="business_id")
    assert result.cardinality == 1
    assert result.left.rows.tolist() == [0, 1]
    assert result.right.rows.tolist() == [0, 1, 2]
    assert result.left.own_size == 2  # the peer sees two elements, not three rows


def test_an_unknown_column_is_named_with_the_known_ones():
    with pytest.raises(psi.PsiError, match="no column 'id'; its columns are business_id"):
        psi.intersect(psi.EcdhEngine(), party("a", ["k"]), party("b", ["k"]), on="id")


# -- parties that do not behave ------------------------------------------------------------------


def both(left_run, right_run, *, names=("a", "b"), timeout=20):
    """Run two sides over memory channels; return what each raised (None = nothing)."""
    ends = memory_pair("a", "b", options=Options(timeout_s=2))
    for end, name, peer in zip(ends, names, ("b", "a"), strict=True):
        end.party, end.peer = name, peer  # what certificates would have said
    raised = [None, None]

    def side(i, run):
        try:
            run(ends[i])
        except BaseException as error:
            raised[i] = error

    threads = [
        threading.Thread(target=side, args=(i, run), daemon=True)
        for i, run in enumerate((left_run, right_run))
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout)
        assert not t.is_alive(), "a side hangs"
    return raised


def honest(engine, role, ids=("k", "m"), *, peer=None, **more):
    def run(channel):
        channel.peer = peer or channel.peer
        return run_party(
            engine,
            channel,
            party(channel.party, list(ids)),
            role=role,
            on="business_id",
            **more,
        )

    return run


@pytest.mark.parametrize(
    ("other", "name", "reason"),
    [
        (honest(psi.EcdhEngine(), "initiator"), "b", "Both parties want to be the initiator"),
        (honest(PlainEngine(), "responder"), "b", "do not agree on engine"),
        (honest(RsaEngine(2048), "responder"), "b", "do not agree on engine"),
        (honest(psi.EcdhEngine(), "responder", peer="c"), "b", "This session is between a and b"),
        (honest(psi.EcdhEngine(), "responder"), "z", "This session is between a and b"),
        (
            honest(psi.EcdhEngine(), "responder", variant="cardinality"),
            "b",
            "do not agree on variant",
        ),
    ],
    ids=["same role", "other engine", "rsa", "meant for another", "from another", "variant"],
)
def test_parties_that_do_not_agree_are_told_so(other, name, reason):
    raised = both(honest(psi.EcdhEngine(), "initiator"), other, names=("a", name))
    assert any(reason in str(e) for e in raised), raised
    assert all(isinstance(e, psi.PartyError) for e in raised)


def test_key_sizes_of_both_sides_must_agree():
    raised = both(honest(RsaEngine(2048), "initiator"), honest(RsaEngine(3072), "responder"))
    assert any("do not agree on parameters" in str(e) for e in raised), raised


def test_a_peer_that_dies_is_noticed_at_once_and_one_that_is_silent_in_time():
    def dies(channel):
        channel.receive(Hello)
        channel.close()

    def is_silent(channel):
        channel.receive(Hello)

    for behaviour, reason in ((dies, "b left before the end"), (is_silent, "b sent nothing for 2")):
        first, _ = both(honest(psi.EcdhEngine(), "initiator"), behaviour)
        assert isinstance(first, psi.PeerLost)
        assert reason in str(first)


def test_an_internal_error_is_not_shown_to_the_peer():
    class Broken(psi.EcdhEngine):
        def speak(self, talk):
            raise ZeroDivisionError("row 17 of /home/secret.csv")

    mine, theirs = both(honest(psi.EcdhEngine(), "initiator"), honest(Broken(), "responder"))
    assert isinstance(theirs, ZeroDivisionError)
    assert str(mine) == "An internal error ended the session."


def test_a_column_named_twice_by_the_peer_is_refused():
    extra = {"variant": "enrichment"}
    raised = both(
        honest(psi.EcdhEngine(), "initiator", **extra),
        honest(psi.EcdhEngine(), "responder", columns=["business_id"] * 2, **extra),
    )
    assert "names a column twice" in str(raised[0])


def test_a_delay_is_waited_for_at_every_turn():
    sides = party("a", ["k"]), party("b", ["k"])
    begun = time.perf_counter()
    psi.intersect(psi.EcdhEngine(), *sides, on="business_id", options=Options(delay_s=0.05))
    assert 6 * 0.05 <= time.perf_counter() - begun < 6 * 0.05 + 1


@pytest.mark.parametrize("before", range(9))
def test_what_was_sent_is_found_at_any_place(before):
    from hashlib import sha256

    def sent(payload):
        message = psi.protocol.Message("a", "b", "blob", 1, 1, 0, b"." * before + payload)
        return psi.Transcript([message])

    assert sent(b"business-17").contains_any(["x", "business-17"])
    assert sent(encode_key(["B7"]) + b"..").contains_any(["B7"])
    assert sent(sha256(b"B7").digest()).contains_any(["B7"])
    assert sent(sha256(b"B7").hexdigest().encode()).contains_any(["B7"])
    assert not sent(b"business-18").contains_any(["B7", "business-17"])
    assert not sent(b"").contains_any(["business-17"])

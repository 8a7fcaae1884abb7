"""A peer that deviates at each message, and what the honest side does: refuse, or believe less."""

import os
import secrets
import threading

import gmpy2
import numpy as np
import pandas as pd
import pytest

from pet_lab import psi
from pet_lab.parties.blocking import memory_pair
from pet_lab.parties.channel import Options
from pet_lab.psi import curve25519 as curve
from pet_lab.psi import ecdh, ecdh_proved, ristretto, rsa_blind
from pet_lab.psi.ecdh_proved import EcdhProvedEngine
from pet_lab.psi.elements import bytes_of
from pet_lab.psi.rsa_blind import TAG_WIDTH, RsaEngine
from pet_lab.psi.rsa_raw import RsaPrivateKey
from pet_lab.psi.session import run_party

N = 6
KEY = RsaPrivateKey(2048)
WIDTH = KEY.width


@pytest.fixture(autouse=True)
def one_key(monkeypatch):
    """Making a key is the slow part, and no deviation here depends on it being fresh."""
    monkeypatch.setattr(rsa_blind, "RsaPrivateKey", lambda *_: KEY)


def meet(honest, evil, *, victim, common=0, variant="psi"):
    """What the victim learns, or the error it raises; `common` of its N keys are the peer's too."""
    ours = [f"secret-{i}" for i in range(N)]
    theirs = ours[:common] + [f"other-{i}" for i in range(N - common)]
    holders = {
        "victim": psi.DataHolder("victim", pd.DataFrame({"id": ours, "income": ours})),
        "evil": psi.DataHolder("evil", pd.DataFrame({"id": theirs, "x": theirs})),
    }
    other = {"initiator": "responder", "responder": "initiator"}[victim]
    results = {}

    def side(name, engine, role, channel, columns):
        try:
            results[name] = run_party(
                engine,
                channel,
                holders[name],
                role=role,
                on="id",
                variant=variant,
                columns=columns if variant == "enrichment" else (),
            )
        except BaseException as error:
            results[name] = error

    ends = memory_pair("victim", "evil", options=Options(timeout_s=10))
    threads = [
        threading.Thread(target=side, args=("victim", honest, victim, ends[0], ["income"])),
        threading.Thread(target=side, args=("evil", evil, other, ends[1], ["x"])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results["victim"]


def as_engine(base, speak):
    """An engine of the same name and parameters that speaks otherwise."""
    changed = type("Deviating", (type(base),), {"speak": lambda self, talk: speak(talk)})
    return changed(base.bits) if isinstance(base, RsaEngine) else changed()


def points(n):
    keys = [os.urandom(16) for _ in range(n)]
    return curve.exponentiate(os.urandom(32), curve.encode_to_curve(keys, b"x"))


# -- intersections that are not there --------------------------------------------------------------


@pytest.mark.parametrize("variant", ["psi", "cardinality", "enrichment", "analytics"])
@pytest.mark.parametrize("how", ["all", "reversed", "one"])
def test_an_echo_of_what_the_victim_blinded_twice_is_refused(how, variant):
    def speak(talk):
        talk.receive("blinded", width=32, count=N)
        talk.send("blinded", points(N))
        bound, salt = points(N), os.urandom(32)
        talk.send("commitment", bytes_of([ecdh._commitment(salt, bound)], 32))
        back = talk.receive("twice_blinded", width=32, count=N)
        talk.send("salt", bytes_of([salt], 32))
        bound[:1] = back[:1]
        echo = {"all": back, "reversed": np.ascontiguousarray(back[::-1]), "one": bound}[how]
        talk.send("twice_blinded", echo)
        return np.arange(N)

    honest = psi.EcdhEngine()
    error = meet(honest, as_engine(honest, speak), victim="initiator", variant=variant)
    assert isinstance(error, psi.MessageError)
    assert "not the one that it committed to" in str(error)


def test_a_responder_that_is_bound_to_nothing_is_refused():
    def speak(talk):
        talk.receive("blinded", width=32, count=N)
        talk.send("blinded", points(N))
        talk.send("twice_blinded", points(N))
        return np.arange(N)

    honest = psi.EcdhEngine()
    error = meet(honest, as_engine(honest, speak), victim="initiator")
    assert str(error) == "Expected commitment, got twice_blinded."


def test_an_initiator_that_returns_the_victims_elements_finds_nothing():
    def speak(talk):
        talk.send("blinded", points(N))
        theirs = talk.receive("blinded", width=32, count=N)
        talk.receive("commitment", width=32, count=1)
        talk.send("twice_blinded", theirs)
        talk.receive("salt", width=32, count=1)
        talk.receive("twice_blinded", width=32, count=N)
        return np.arange(N)

    honest = psi.EcdhEngine()
    assert meet(honest, as_engine(honest, speak), victim="responder").cardinality == 0


@pytest.mark.parametrize("how", ["all", "reversed", "one"])
@pytest.mark.parametrize("honest", [psi.EcdhEngine(), EcdhProvedEngine()], ids=repr)
def test_a_set_that_is_the_victims_own_is_refused_before_anything_is_answered(honest, how):
    def speak(talk):
        if isinstance(honest, EcdhProvedEngine):
            talk.receive("public", width=32, count=1)
        theirs = talk.receive("blinded", width=32, count=N)
        if isinstance(honest, EcdhProvedEngine):
            public = ristretto.times(ristretto.random_scalar(), ristretto.GENERATOR)
            talk.send("public", bytes_of([public], 32))
        other = points(N)
        other[:1] = theirs[-1:]
        echo = {"all": theirs, "reversed": np.ascontiguousarray(theirs[::-1]), "one": other}[how]
        talk.send("blinded", echo)
        return np.arange(N)

    error = meet(honest, as_engine(honest, speak), victim="initiator")
    assert isinstance(error, psi.MessageError)
    assert str(error) == "The peer sent our own blinded elements back as its own."


def test_what_remains_of_trust_is_which_of_the_common_keys():
    # One key is truly shared. A responder that reorders its answers before it commits makes another
    # key pass for it: no more than truly shared, but not the same. Stated in `pet_lab.psi.ecdh`.
    def speak(talk):
        talk.variant = "cardinality"  # shuffles what it returns, and commits to that
        psi.EcdhEngine().speak(talk)
        return np.arange(1)

    honest = psi.EcdhEngine()
    learned = {
        meet(honest, as_engine(honest, speak), victim="initiator", common=1).positions.item()
        for _ in range(20)
    }
    assert len(learned) > 1  # the chance of one position 20 times is 6 ** -19
    assert "k other keys of the victim pass for common" in ecdh.__doc__.replace("\n", " ")


UNPROVED = "The peer's answers are not proved: they are not ours under its one secret."


def proving_lies(how):
    """A peer that proves as well as it can: for the very answers that it sends."""

    def speak(talk):
        secret = ristretto.random_scalar()
        public = ristretto.times(secret, ristretto.GENERATOR)
        keys = [talk.session + key for key in talk.elements]
        hashed = [ristretto.hash_to_group(key, ecdh_proved.CONTEXT) for key in keys]
        mine = bytes_of([ristretto.times(secret, h) for h in hashed], 32)
        first = talk.role == "initiator"
        if first:
            talk.send("public", bytes_of([public], 32))
            talk.send("blinded", mine)
        talk.receive("public", width=32, count=1)
        theirs = talk.receive("blinded", width=32, count=N)
        if not first:
            talk.send("public", bytes_of([public], 32))
            talk.send("blinded", mine)
            back = talk.receive("twice_blinded", width=32, count=N)
            talk.receive("proof", width=64, count=1)
        before = curve.split(theirs)
        true = [ristretto.times(secret, element) for element in before]
        other = ristretto.random_scalar()
        with_other = [ristretto.times(other, element) for element in before]
        lies = {
            "true": true,
            "reordered": [*true[1:], true[0]],
            "one in place of another": [true[1], *true[1:]],
            "another secret": with_other,
            "another secret once": [with_other[0], *true[1:]],
            "echoed": None if first else curve.split(back),
        }[how]
        context = ecdh_proved._context(talk, talk.party, slice(0, N), before, lies)
        by = other if how == "another secret" else secret
        talk.send("twice_blinded", bytes_of(lies, 32))
        talk.send("proof", bytes_of([ristretto.prove(by, public, before, lies, context)], 64))
        if first:
            talk.receive("twice_blinded", width=32, count=N)
            talk.receive("proof", width=64, count=1)
        return np.arange(N)

    return as_engine(EcdhProvedEngine(), speak)


LIES = ["reordered", "one in place of another", "another secret", "another secret once"]


@pytest.mark.parametrize(
    ("victim", "how"),
    [(victim, how) for victim in ("initiator", "responder") for how in LIES]
    + [("initiator", "echoed")],
)
@pytest.mark.parametrize("variant", ["psi", "enrichment", "analytics"])
def test_answers_that_are_proved_are_neither_reordered_nor_copied(victim, how, variant):
    learned = meet(EcdhProvedEngine(), proving_lies(how), victim=victim, common=1, variant=variant)
    assert isinstance(learned, psi.MessageError), learned
    assert str(learned) == (
        "The peer's answers are not proved: they are not ours under its one secret."
    )


@pytest.mark.parametrize("victim", ["initiator", "responder"])
def test_the_peer_that_proves_lies_is_believed_when_it_tells_the_truth(victim):
    # So what the test above sees refused is the lie, not a clumsy peer.
    learned = meet(EcdhProvedEngine(), proving_lies("true"), victim=victim, common=1)
    assert learned.positions.tolist() == [0]


@pytest.mark.parametrize("variant", ["psi", "enrichment", "analytics"])
@pytest.mark.parametrize("how", ["tags", "guesses"])
def test_a_claim_without_signatures_is_refused(how, variant):
    def speak(talk):
        talk.receive("blob", width=WIDTH, count=1 + rsa_blind.ROOTS)
        numbers = [secrets.randbelow(KEY.modulus).to_bytes(WIDTH, "big") for _ in range(N)]
        talk.send("blinded", bytes_of(numbers, WIDTH))
        talk.receive("signed", width=WIDTH, count=N)
        tags = talk.receive("tags", width=TAG_WIDTH, count=N)
        claim = tags if how == "tags" else bytes_of([os.urandom(TAG_WIDTH)], TAG_WIDTH)
        talk.send("matched", claim)
        return np.arange(N)

    honest = RsaEngine(2048)
    error = meet(honest, as_engine(honest, speak), victim="responder", variant=variant)
    assert str(error) == "The peer claims a match without a signature that proves it."


def test_swapped_signatures_do_not_verify():
    honest = RsaEngine(2048)
    swap = np.array([1, 0, *range(2, N)])
    evil = bent(honest, "signed", lambda rows: rows[swap])
    error = meet(honest, evil, victim="initiator", common=3)
    assert str(error) == "The key holder's signatures are wrong: they do not verify."


def key_with_e_in_phi():
    """p, q of 1024 bits with 65537 dividing q - 1: signing is then no permutation."""
    p, q = (3 << 1022) + 1037, 2 * 65537 * ((3 << 1022) // (2 * 65537) + 193) + 1
    assert gmpy2.is_prime(p)
    assert gmpy2.is_prime(q)
    return p * q


@pytest.mark.parametrize("how", ["random", "hashes", "own"])
def test_a_key_with_e_dividing_q_minus_1_gets_no_blinded_element(how):
    modulus, got = key_with_e_in_phi(), []
    rsa_blind.check_modulus(modulus, 2048)

    def speak(talk):
        roots = {
            "random": [secrets.randbelow(modulus) for _ in range(rsa_blind.ROOTS)],
            "hashes": rsa_blind.root_hashes(modulus, talk.session),
            "own": rsa_blind.root_hashes(KEY.modulus, talk.session),
        }[how]
        numbers = [modulus, *roots]
        talk.send("blob", bytes_of([x.to_bytes(WIDTH, "big") for x in numbers], WIDTH))
        got.append(talk.receive("blinded", width=WIDTH, count=N))
        return np.arange(N)

    honest = RsaEngine(2048)
    error = meet(honest, as_engine(honest, speak), victim="initiator")
    assert str(error) == "The key is not shown to be one: e may divide phi(n)."
    assert not got


# -- every message, bent in every way --------------------------------------------------------------


def bent(base, kind, change):
    """The engine `base`, except that each stream of `kind` that it sends is changed."""

    def speak(talk):
        send = talk.send

        def changed(sent, rows):
            send(sent, np.ascontiguousarray(change(rows)) if sent == kind else rows)

        talk.send = changed
        return type(base).speak(base, talk)

    return as_engine(base, speak)


def flipped(rows):
    rows = rows.copy()
    rows[0, 0] ^= 1
    return rows


CHANGES = {
    "one row less": lambda rows: rows[:-1],
    "a row twice": lambda rows: np.concatenate([rows[:1], rows[:1], rows[2:]])[: len(rows)],
    "one row more": lambda rows: np.concatenate([rows, rows[:1]]),
    "other order": lambda rows: rows[::-1],
    "a bit flipped": flipped,
    "zeros": np.zeros_like,
    "all ones": lambda rows: np.full_like(rows, 255),
    "nothing": lambda rows: rows[:0],
}
MESSAGES = [
    (psi.EcdhEngine(), "initiator", ["blinded", "commitment", "salt", "twice_blinded"]),
    (psi.EcdhEngine(), "responder", ["blinded", "twice_blinded"]),
    (EcdhProvedEngine(), "initiator", ["public", "blinded", "twice_blinded", "proof"]),
    (EcdhProvedEngine(), "responder", ["public", "blinded", "twice_blinded", "proof"]),
    (RsaEngine(2048), "initiator", ["blob", "signed", "tags"]),
    (RsaEngine(2048), "responder", ["blinded", "matched"]),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("engine", "victim", "kind"),
    [(engine, victim, kind) for engine, victim, kinds in MESSAGES for kind in kinds],
    ids=lambda x: getattr(x, "name", x),
)
def test_the_honest_side_refuses_or_believes_no_more_than_is_true(engine, victim, kind, change):
    learned = meet(engine, bent(engine, kind, CHANGES[change]), victim=victim, common=2)
    if isinstance(learned, BaseException):
        assert isinstance(learned, psi.PartyError), learned
        assert str(learned).endswith(".")
        assert "internal error" not in str(learned)
    else:
        assert learned.cardinality <= 2
        assert len(learned.positions) == learned.cardinality
        if engine.name == "ecdh-proved":
            # What is bent is refused, but a set, which is the peer's to choose; and one row stays
            # one row in another order.
            unchanged = kind in {"public", "proof"} and change in {"a row twice", "other order"}
            assert kind == "blinded" or unchanged

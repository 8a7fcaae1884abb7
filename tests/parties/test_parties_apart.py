"""Native parsers in a child process: whatever becomes of the child, the parent refuses and goes on.

tenseal and OpenMined's library read mutants of valid messages there, not looked at before.
"""

import random
import sys
import time

import numpy as np
import psutil
import pytest

from pet_lab import federated as fl
from pet_lab.parties.apart import Apart, spent
from pet_lab.parties.errors import PartyError
from pet_lab.psi.protocol import MessageError

SEED = 20261127


class Turned(Exception):
    """A refusal of the tests."""


@pytest.fixture(scope="module")
def frail():
    child = Apart("tests.parties.frail:Frail", [b"hello"], refusal=Turned, deadline_s=3)
    yield child
    child.close()


def mutant(rng: random.Random, raw: bytes) -> bytes:
    """Bytes changed, mostly in the head or the end, where the structure is; cut; spliced."""
    raw, how = bytearray(raw), rng.randrange(8)
    if how == 0:
        del raw[rng.choice([rng.randrange(12), rng.randrange(len(raw))]) :]
    elif how == 1:
        at = rng.randrange(len(raw))
        raw[at:at] = rng.randbytes(rng.randint(1, 40))
    elif how == 2:
        at = rng.randrange(len(raw))
        del raw[at : at + rng.randint(1, 40)]
    else:
        for _ in range(rng.randint(1, 5)):
            at = rng.choice([rng.randrange(len(raw)), rng.randrange(min(len(raw), 60)), -1])
            raw[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(raw)


def test_a_child_answers_keeps_its_object_and_is_paid_for(frail):
    before = spent()
    assert frail("echo", [b"a", b"\0\xff"], [b""]) == [b"hello", b"a", b"\0\xff", b""]
    process = frail._process.popen.pid
    with pytest.raises(Turned, match=r"^Expected better\.$"):
        frail("refuse")
    with pytest.raises(Turned, match="KeyError"):
        frail("trip")
    with pytest.raises(Turned):
        frail("no_such_method")
    assert frail._process.popen.pid == process, "a refusal costs no process"
    assert 0 < spent() - before < 5
    assert "hello" not in repr(frail)


@pytest.mark.parametrize("end", ["crash", "leave", "lie"])
def test_a_child_that_ends_is_one_refused_message(frail, end):
    with pytest.raises(Turned, match="only this message is lost"):
        frail(end)
    assert frail("echo") == [b"hello"]


def test_a_child_that_hangs_is_ended_in_time(frail):
    frail("echo")
    process, start = psutil.Process(frail._process.popen.pid), time.monotonic()
    with pytest.raises(Turned, match="longer than 3 s"):
        frail("hang")
    assert 3 <= time.monotonic() - start < 15
    assert not process.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="no other system keeps to a limit of memory")
def test_a_child_that_wants_too_much_memory_gets_none(frail):
    with pytest.raises(Turned, match="MemoryError"):
        frail("eat")
    assert frail("echo") == [b"hello"]


def test_no_child_is_an_error_of_ours_and_no_refusal():
    with pytest.raises(PartyError, match="No process to parse messages in"):
        Apart("tests.parties.frail:Nobody", refusal=Turned)("echo")


def test_a_child_ends_with_its_owner():
    child = Apart("tests.parties.frail:Frail", [b""], refusal=Turned)
    child("echo")
    process = psutil.Process(child._process.popen.pid)
    del child
    assert not process.is_running()


# --- tenseal --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ckks():
    pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")
    return fl.Ckks.generate(100)


def test_the_three_bytes_that_end_a_process_end_a_child(ckks):
    """Added to a ciphertext they are a segmentation fault: here the child holds them as its own."""
    (raw,) = ckks.encrypt(np.zeros(100), 1.0)
    context = [ckks.context.serialize()]
    maker = "pet_lab.federated.aggregation:CkksParser"
    child = Apart(maker, context, [raw[:3]], refusal=fl.Rejected)
    with pytest.raises(fl.Rejected, match="only this message is lost"):
        child("check", [raw])
    child.close()
    server = ckks.public_side()
    with pytest.raises(fl.Rejected, match="damaged"):
        server._parser("check", [raw[:3]])  # past the comparison of lengths
    with pytest.raises(fl.Rejected, match="damaged"):
        server.add([[raw], [raw[:3]]])
    assert server.add([[raw], [raw]])


@pytest.mark.parametrize(
    "count", [150, pytest.param(2000, marks=pytest.mark.slow)], ids="{} mutants".format
)
def test_no_mutant_of_a_ciphertext_ends_the_server(ckks, count):
    server, rng = ckks.public_side(), random.Random(SEED)
    message = ckks.encrypt(np.linspace(-1, 1, 100), 0.5)
    refused = lost = 0
    for _ in range(count):
        bad = [mutant(rng, message[0])]
        try:
            server._parser("check", bad)
            server._parser("add", message, bad)
        except fl.Rejected as error:
            refused += 1
            lost += "only this message is lost" in str(error)
    print(f"seed {SEED}: {refused} of {count} refused, in {lost} of them the child was lost")
    assert count / 4 < refused
    total = server.add([message, message])
    assert np.abs(ckks.decrypt(total, 1.0) - np.linspace(-1, 1, 100)).max() < 1e-6


# --- OpenMined ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count", [100, pytest.param(2000, marks=pytest.mark.slow)], ids="{} mutants".format
)
def test_no_mutant_of_a_message_ends_a_party_of_openmineds_library(count):
    pytest.importorskip("private_set_intersection", reason="openmined-psi is not for this platform")
    sides = [
        Apart("pet_lab.psi.openmined:Library", [role, b"psi"], refusal=MessageError)
        for role in (b"responder", b"initiator")
    ]
    responder, initiator = sides
    items = [b"%04x" % i for i in range(20)]
    (setup,) = responder("setup", items[:15], [b"20"])
    (request,) = initiator("request", items)
    (response,) = responder("respond", [request])
    rng, refused, lost = random.Random(SEED), 0, 0
    for i in range(count):
        try:
            if i % 2:
                responder("respond", [mutant(rng, request)])
            else:
                both = [
                    mutant(rng, raw) if rng.random() < 0.6 else raw for raw in (setup, response)
                ]
                initiator("compare", both)
        except MessageError as error:
            refused += 1
            if "only this message is lost" in str(error):
                lost += 1
                (setup,), (request,) = (
                    responder("setup", items[:15], [b"20"]),
                    initiator("request", items),
                )
                (response,) = responder("respond", [request])
    print(f"seed {SEED}: {refused} of {count} refused, in {lost} of them the child was lost")
    assert count / 10 < refused
    (found,) = initiator("compare", [setup, response])
    assert np.frombuffer(found, "<i8").tolist() == list(range(15))
    for side in sides:
        side.close()

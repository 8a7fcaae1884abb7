"""Damaged frames of mpyc, from a party with a good certificate: refused, in time, in the process.

One party computes; the two others mirror its frames, which are shares of constants and thus fit
each other. Some frames come back changed. A party that waits for a frame that never comes is ended
by the limit on a task's time, like silence.
"""

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from pet_lab.mpc import mesh as meshes
from pet_lab.mpc.arithmetic import Arithmetic
from pet_lab.mpc.messages import Member
from pet_lab.parties.errors import PartyError, Refused

SEED, PRIME = 20261127, 2**127 - 1
NAMES = ("a", "b", "c")
HEAD = struct.Struct("<qI")


def frames(raw: bytes) -> list[bytes]:
    """What mpyc sends: a number of 8 bytes, a length of 4, that many bytes."""
    cut = []
    while raw:
        end = HEAD.size + HEAD.unpack_from(raw)[1]
        cut.append(raw[:end])
        raw = raw[end:]
    return cut


def mutants(rng: random.Random, frame: bytes) -> list[bytes]:
    """What comes in place of a frame: changed, cut, grown, doubled, renamed, or nothing."""
    (name, size), body = HEAD.unpack_from(frame), frame[HEAD.size :]
    kinds = {
        "nothing": [],
        "twice": [frame, frame],
        "flipped": [frame[:-1] + bytes([frame[-1] ^ 1 << rng.randrange(8)])],
        "noise": [HEAD.pack(name, size) + rng.randbytes(size)],
        "ones": [HEAD.pack(name, size) + b"\xff" * size],
        "empty": [HEAD.pack(name, 0)],
        "short": [HEAD.pack(name, size - 1) + body[:-1]],
        "cut": [frame[: rng.randrange(len(frame))]],
        "long": [HEAD.pack(name, size + 7) + body + rng.randbytes(7)],
        "longest": [HEAD.pack(name, 2**32 - 1) + body],
        "renamed": [HEAD.pack(rng.choice([0, -1, name + 1, 2**63 - 1]), size) + body, frame],
        "many": [HEAD.pack(i, 1) + b"x" for i in range(200)],
        "rubbish": [rng.randbytes(40)],
    }
    kind = rng.choice(sorted(kinds))
    SEEN[kind] += 1
    return kinds[kind]


SEEN: Counter[str] = Counter()


class Mirror:
    """The connection to a party that sends back what anybody gets, as `change` makes it."""

    def __init__(self, index, change, everybody):
        self.index, self.change, self.closed, self.link = index, change, False, None
        self.everybody, self.seen = everybody, set()

    def get_extra_info(self, what):
        return {"subjectAltName": (("DNS", NAMES[self.index]),), "subject": ()}

    def writelines(self, parts):
        """The greeting of a client; nobody mirrors that."""

    def write(self, raw):
        for frame in frames(raw):
            for mirror in self.everybody:  # an opening goes to some and comes from others
                mirror.reflect(frame)

    def reflect(self, frame):
        if frame[:8] not in self.seen:
            self.seen.add(frame[:8])
            for part in self.change(frame):
                asyncio.get_running_loop().call_soon(self.arrive, part)

    def arrive(self, raw):
        if self.closed:
            return
        try:
            self.link.data_received(raw)
        except Exception as error:  # what asyncio does with it
            self.close(error)

    def close(self, error=None):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.link.connection_lost, error)

    abort = close

    def is_closing(self):
        return self.closed


async def program(arithmetic):
    """Every exchange that a task can have."""
    rows = await arithmetic.put_in([3, 5, 7])
    a, b = [await arithmetic.vector(row) for row in rows[:2]]
    product = await arithmetic.mul(a, b)
    dots = await arithmetic.dots([(a, b), (product, b)])
    opened = await arithmetic.open(dots.z)
    await arithmetic.zero(a)
    await arithmetic.coin()
    if not arithmetic.checked:
        await arithmetic.less(a, b)
        await arithmetic.hidden_zero(a)
        await arithmetic.truncate(product, 4, 60)
    await arithmetic.verify()
    return opened


async def computed(change, greeting=None, *, checked=False, within=0.15):
    """The outcome of the program at party b: "done", "waits", or the error that ends the task."""
    loop = asyncio.get_running_loop()
    endpoint = SimpleNamespace(name="b", admit=lambda name: None, delay_s=0.0)
    members = [Member(n, "127.0.0.1", 1, 2, "") for n in NAMES]
    with socket.socket() as listener:
        mesh = meshes.Mesh(endpoint, members, 1, listener)
    own = mesh.runtime.parties[1].protocol = loop.create_future()
    kind, mirrors = meshes._link_class(), []
    for index, link in ((2, kind(mesh, 2)), (0, kind(mesh, None))):
        mirror = Mirror(index, change, mirrors)
        mirrors.append(mirror)
        mirror.link = link
        link.connection_made(mirror)
        if not index:
            mirror.arrive(b"\0\0" + bytes(16) if greeting is None else greeting)
    work = asyncio.ensure_future(program_on(own, mesh, checked))
    await asyncio.wait({work, mesh.trouble}, timeout=within, return_when="FIRST_COMPLETED")
    try:
        if work.done():
            work.result()
            return "done"
        if mesh.trouble.done():
            raise mesh.trouble.result()
        return "waits"
    except PartyError as error:
        return type(error).__name__
    finally:
        mesh.close()
        work.cancel()
        await asyncio.wait({work})


async def program_on(own, mesh, checked):
    await own
    return await program(Arithmetic(mesh.runtime, PRIME, checked=checked))


def run(change, greeting=None, **more):
    loop = asyncio.new_event_loop()
    problems = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    try:
        return loop.run_until_complete(computed(change, greeting, **more))
    finally:
        loop.close()


def test_mirrors_let_the_program_through():
    assert run(lambda frame: [frame], within=20) == "done"


@pytest.mark.parametrize("trials", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_frames_end_a_computation_and_nothing_else(trials):
    rng, outcomes, slowest = random.Random(SEED), Counter(), 0.0
    for _ in range(trials):
        bad = {rng.randrange(40) for _ in range(rng.randint(1, 2))}
        sent = iter(range(10**6))

        def change(frame, bad=bad, sent=sent):
            return mutants(rng, frame) if next(sent) in bad else [frame]

        start = time.thread_time()
        outcomes[run(change, checked=rng.random() < 0.3)] += 1
        slowest = max(slowest, time.thread_time() - start)
    print(f"seed {SEED}: {dict(outcomes)}, slowest {slowest:.2f} s, {dict(SEEN)}")
    assert set(outcomes) <= {"done", "waits", "Cheating", "PeerLost"}
    assert outcomes["Cheating"] + outcomes["PeerLost"] > trials / 10
    assert slowest < 5


def test_a_greeting_that_is_none_lets_nobody_in():
    rng = random.Random(SEED)
    for greeting in (b"", b"\x02\0" + bytes(16), b"\xff" * 18, rng.randbytes(40)):
        outcome = run(lambda frame: [frame], greeting)
        assert outcome in {"waits", "PeerLost"}, greeting


@pytest.mark.parametrize(
    "names",
    [
        (("DNS", "a"), ("DNS", "x")),
        (("DNS", "x"), ("DNS", "a")),
        (("DNS", "a"), ("email", "a@x")),
        (("email", "a"),),
        (("URI", "a"),),
        (("DNS", "*"),),
        (("DNS", "stranger"),),
        (("DNS", "barred"),),
        (),
    ],
    ids=str,
)
def test_only_a_party_by_its_one_name_has_a_connection(names):
    async def let_in(names):
        def admit(name):
            if name == "barred":
                raise Refused("barred is revoked or excluded.")

        endpoint = SimpleNamespace(name="b", admit=admit, delay_s=0.0)
        members = [Member(n, "127.0.0.1", 1, 2, "") for n in (*NAMES, "barred")]
        with socket.socket() as listener:
            mesh = meshes.Mesh(endpoint, members, 1, listener)
        mirror = Mirror(0, lambda frame: [frame], [])
        mirror.get_extra_info = lambda what: {"subjectAltName": names, "subject": ()}
        mirror.link = meshes._link_class()(mesh, None)
        mirror.link.connection_made(mirror)
        await asyncio.sleep(0)
        assert not mesh.trouble.done()  # who is nobody ends no computation
        return mirror.closed, len(mesh._links)

    assert asyncio.run(let_in((("DNS", "a"),))) == (False, 1)
    assert asyncio.run(let_in(names)) == (True, 0)


def test_what_is_sent_ahead_has_an_end(monkeypatch):
    """A length of 4 GiB, or frames without end that nobody asked for."""
    monkeypatch.setattr(meshes, "MOST_UNREAD", 100_000)
    floods = [
        lambda name: [HEAD.pack(name, 2**32 - 1), *[bytes(2000)] * 60],
        lambda _: [HEAD.pack(2**40 + i, 1000) + bytes(1000) for i in range(120)],
    ]
    for flood in floods:
        assert run(lambda frame, f=flood: f(HEAD.unpack_from(frame)[0]), within=10) == "Cheating"
    assert run(lambda frame: [frame], within=20) == "done"


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_too_few_shares_are_refused_and_no_shorter_vector(which):
    """Of both inputs and of both answers to the first product; the empty ones once were zip's."""
    sent = iter(range(10**6))

    def change(frame):
        return [frame[:8] + bytes(4)] if next(sent) == which else [frame]

    assert run(change, within=10) == "Cheating"

"""A peer that deviates at each single frame of a session or an upload, and a linker that answers
anything: the honest side ends with one sentence, in time, and believes nothing."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pandas as pd
import pytest
from hostile import DEVIATIONS, WAITED_FOR, deviate

from pet_lab import psi
from pet_lab.parties import blocking, channel
from pet_lab.parties.certificates import TestAuthority
from pet_lab.parties.channel import Options
from pet_lab.psi import linker, rsa_blind, service, tokens
from pet_lab.psi.disclosure import OutputRules
from pet_lab.psi.ecdh_proved import EcdhProvedEngine
from pet_lab.psi.linker import LinkerAnswer, Query, combine
from pet_lab.psi.messages import Hello
from pet_lab.psi.rsa_blind import RsaEngine
from pet_lab.psi.rsa_raw import RsaPrivateKey
from pet_lab.psi.session import CELL, PsiSession, run_party

KEY = RsaPrivateKey(2048)
OTHER = {"initiator": "responder", "responder": "initiator"}
HOLDERS = {
    "victim": psi.DataHolder("victim", pd.DataFrame({"id": ["a", "b", "c"], "x": ["1", "2", "3"]})),
    "evil": psi.DataHolder("evil", pd.DataFrame({"id": ["b", "c", "d"], "y": ["5", "6", "7"]})),
}
NEVER = 10**6


@pytest.fixture(autouse=True)
def one_key(monkeypatch):
    """Making a key is the slow part, and no deviation here depends on it being fresh."""
    monkeypatch.setattr(rsa_blind, "RsaPrivateKey", lambda *_: KEY)


def refused(error):
    """Whether this is a proper refusal: one sentence that tells nothing of the inside."""
    assert isinstance(error, psi.PartyError), repr(error)
    sentence = str(error)
    assert sentence.endswith("."), sentence
    assert "\n" not in sentence
    assert "internal error" not in sentence
    return True


def outcome(work):
    """What comes of it: a value, or the error."""
    try:
        return work()
    except Exception as error:
        return error


def session(engine, victim, at, how):
    """What the victim ends with when the peer deviates at frame `at`, and the peer's frames."""
    options = Options(timeout_s=0.3 if how in WAITED_FOR else 20)
    ends = blocking.memory_pair("victim", "evil", options=options)
    given = deviate(ends[1], at, how)

    def side(line, role, column):
        more = {"on": "id", "variant": "enrichment", "columns": [column]}
        return outcome(lambda: run_party(engine, line, HOLDERS[line.party], role=role, **more))

    evil = threading.Thread(target=side, args=(ends[1], OTHER[victim], "y"))
    evil.start()
    learned = side(ends[0], victim, "x")
    evil.join(60)
    assert not evil.is_alive()
    return learned, given


@pytest.mark.parametrize("how", DEVIATIONS)
@pytest.mark.parametrize("victim", ["initiator", "responder"])
@pytest.mark.parametrize(
    "engine",
    [psi.EcdhEngine(), EcdhProvedEngine(), pytest.param(RsaEngine(2048), marks=pytest.mark.slow)],
    ids=repr,
)
def test_one_frame_that_is_not_as_agreed_ends_the_session(engine, victim, how):
    honest, frames = session(engine, victim, NEVER, "leaves")
    assert honest.enriched["y"].tolist() in (["5", "6"], ["6", "5"])
    last = len(frames) - 1
    with ThreadPoolExecutor(8) as threads:
        ends = threads.map(lambda at: session(engine, victim, at, how)[0], range(len(frames)))
        for at, learned in enumerate(ends):
            if at == last and how == "sends it twice":
                assert learned.cardinality == 2  # all was there; what follows is not read
            else:
                assert refused(learned), (at, frames[at])


# -- greetings that are well formed and lie ------------------------------------------------------


def greeted(**changed):
    """What an initiator ends with whose peer greets with these changes to an honest greeting."""
    ends = blocking.memory_pair("victim", "evil", options=Options(timeout_s=5))

    def evil():
        with contextlib.suppress(psi.PartyError):
            first = ends[1].receive(Hello)
            fresh = {"nonce": b"n" * 32, "share": b"\x09" + bytes(31), "role": "responder"}
            turned = {"party": "evil", "peer": "victim", "columns": (), "size": 3}
            copied = {name: getattr(first, name) for name in changed if changed[name] is None}
            ends[1].send(msgspec.structs.replace(first, **{**fresh, **turned, **changed, **copied}))
            ends[1].receive(Hello)
        ends[1].close()

    thread = threading.Thread(target=evil)
    thread.start()
    mine = ends[0], HOLDERS["victim"]
    ended = outcome(lambda: run_party(psi.EcdhEngine(), *mine, role="initiator", on="id"))
    thread.join(20)
    return ended


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"share": bytes(32)}, "The key share of the greeting has small order."),
        ({"nonce": None}, "The greeting repeats our own."),
        ({"share": None}, "The greeting repeats our own."),
        (dict.fromkeys(["nonce", "share", "role", "party", "peer"]), "This session is between"),
        ({"role": None}, "Both parties want to be the initiator"),
        ({"party": "bank"}, "the greeting is from bank to victim."),
        ({"peer": "bank"}, "the greeting is from evil to bank."),
        ({"engine": "rsa"}, "do not agree on engine"),
        ({"engine": "ecdh-proved"}, "do not agree on engine"),
        ({"variant": "cardinality"}, "do not agree on variant"),
        ({"on": ("id", "born")}, "do not agree on on"),
        ({"parameters": {"group": "curve25519", "hash": "md5"}}, "do not agree on parameters"),
        ({"columns": ("y", "y")}, "The peer names a column twice."),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_a_greeting_that_lies_is_refused(changed, sentence):
    error = greeted(**changed)
    assert refused(error)
    assert sentence in str(error)


@pytest.mark.parametrize("size", [0, 2, 4, 1 << 26])
def test_a_size_that_was_announced_is_the_size_that_must_come(size):
    ends = blocking.memory_pair("victim", "evil", options=Options(timeout_s=5))
    send = ends[1].send

    def boasting(message, *, kind=""):
        if isinstance(message, Hello):
            message = msgspec.structs.replace(message, size=size)
        send(message, kind=kind)

    ends[1].send = boasting
    results = {}

    def side(line, role):
        mine = line, HOLDERS[line.party]
        results[line.party] = outcome(
            lambda: run_party(psi.EcdhEngine(), *mine, role=role, on="id")
        )

    evil = threading.Thread(target=side, args=(ends[1], "responder"))
    evil.start()
    side(ends[0], "initiator")
    evil.join(20)
    assert refused(results["victim"])


# -- cells that are handed over, in streams with their right digest ------------------------------


@pytest.mark.parametrize("victim", OTHER)
@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (CELL.pack(63, b"1"), None),  # zeros are text too
        (CELL.pack(64, b"1"), "its length and its padding disagree."),
        (CELL.pack(255, b"1"), "its length and its padding disagree."),
        (CELL.pack(0, b"1"), "its length and its padding disagree."),
        (CELL.pack(1, b"1" * 63), "its length and its padding disagree."),
        (CELL.pack(1, b"\xff"), "A cell is text in UTF-8; this is not."),
        (CELL.pack(3, b"\xed\xa0\x80"), "A cell is text in UTF-8; this is not."),
        (None, "Of attributes exactly 2 elements were to come, 1 are announced."),
    ],
)
def test_a_cell_that_is_none_is_refused(cell, sentence, victim):
    class Deviates(psi.EcdhEngine):
        def speak(self, talk):
            send = talk.send

            def lying(kind, rows):
                if kind == "attributes" and cell is None:
                    rows = rows[:1]
                elif kind == "attributes":
                    rows = np.vstack([rows[:1], np.frombuffer(cell, dtype=np.uint8)])
                send(kind, rows)

            if talk.party == "evil":
                talk.send = lying
            return super().speak(talk)

    learned, _ = session(Deviates(), victim, NEVER, "leaves")
    if sentence is None:
        assert len(learned.enriched["y"][1]) == 63
    else:
        assert refused(learned)
        assert sentence in str(learned)


# -- a linker that answers anything, and uploads that deviate ------------------------------------

AUTHORITY = TestAuthority()
STATCAN, CBS, LINKER = (AUTHORITY.issue(name) for name in ("statcan", "cbs", "linker"))
ASKED = Query(session=b"s" * 16, group_by=("statcan:pref",))


@pytest.fixture(scope="module")
def uploads():
    rng = np.random.default_rng(3)
    ids = [f"{i:02d}" for i in range(40)]
    left = psi.DataHolder(
        "statcan", pd.DataFrame({"id": ids, "pref": rng.choice(["100", "300"], 40)})
    )
    right = psi.DataHolder(
        "cbs", pd.DataFrame({"id": ids, "size": rng.choice(["small", "large"], 40)})
    )
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id", variant="analytics")
    (a,) = tokens.tables_for_linkers(left, result.left, on="id", columns=["pref"])
    (b,) = tokens.tables_for_linkers(right, result.right, on="id", columns=["size"])
    return result, a, b


class Raw(msgspec.Struct):
    """What a linker puts on the wire as it is."""

    form: int
    payload: bytes


GOOD = LinkerAnswer(query=ASKED, labels=((b"t" * 48,),), values=(20,), epsilon=0.0)
REPLIES = {
    "a receipt": service.Receipt(3),
    "a status": service.Status(True),
    "an answer": GOOD,
    "an answer to another query": msgspec.structs.replace(
        GOOD, query=Query(session=b"x" * 16, group_by=("statcan:pref",))
    ),
    "the request": ASKED,
    "a greeting's form": Raw(channel.JSON, b'{"type":"hello"}'),
    "fewer than no pairs": Raw(channel.JSON, b'{"type":"receipt","pairs":-2}'),
    "pairs and more": Raw(channel.JSON, b'{"type":"receipt","pairs":1,"pairs":2}'),
    "neither yes nor no": Raw(channel.JSON, b'{"type":"linked","linked":1}'),
    "raw bytes": Raw(channel.BYTES, b"\0" * 40),
    "no form": Raw(77, b"{}"),
    "nothing in it": Raw(channel.JSON, b""),
    "deep": Raw(channel.JSON, b"[" * 100_000),
    "a refusal that cannot be read": Raw(channel.REFUSAL, b"\xff"),
    "silence": None,
}
# The one reply to each request that is of the right kind, and what is believed of it.
RIGHT = {"send": "a receipt", "ask": "an answer", "wait": "a status"}


@pytest.mark.parametrize("request_", RIGHT)
def test_a_linker_that_answers_anything_is_refused(request_, uploads):
    _, a, _ = uploads
    reply = {}

    def handle(line):
        line.receive(tokens.TableHeader | Query | service.StatusRequest)
        if request_ == "send":
            talk = PsiSession(line)
            for width in (tokens.TOKEN_WIDTH, a.header.width):
                talk.receive("tokens", width=width, count=40, or_fewer=True)
        now = reply["now"]
        if now is None:
            threading.Event().wait(1.5)
        elif isinstance(now, Raw):
            blocking._run(line._inner._send(now.form, (now.payload,), "hostile"))
        else:
            line.send(now)

    with blocking.serve(LINKER, handle, options=Options(timeout_s=20)) as server:
        believed = {}
        for name, reply["now"] in REPLIES.items():
            wait_s = 1 if reply["now"] is None else 20
            mine = STATCAN, Options(timeout_s=wait_s)
            one = service.RemoteLinker("linker", f"127.0.0.1:{server.port}", *mine)
            calls = {
                "send": lambda one=one: one.send(a, wait_s=20)[0],
                "ask": lambda one=one: one.ask(ASKED),
                "wait": lambda one=one, s=wait_s: one.wait_until_linked(ASKED.session, wait_s=s),
            }
            ended = outcome(calls[request_])
            if not isinstance(ended, Exception):
                believed[name] = ended
            else:
                assert refused(ended), name
    want = {"send": 3, "ask": GOOD, "wait": None}
    assert believed == {RIGHT[request_]: want[request_]}


def test_labels_of_another_column_party_or_key_are_not_opened(uploads):
    result, a, b = uploads
    one = linker.Linker(("statcan", "cbs"), rules=OutputRules(min_cell=0))
    one.accept(a, "statcan")
    one.accept(b, "cbs")
    asked = Query(session=result.left.session, group_by=("statcan:pref", "cbs:size"))
    true = one.answer(asked, "cbs")
    assert true.table(result.left.link_key)["count"].sum() == 40
    swapped = msgspec.structs.replace(true, labels=true.labels[::-1])
    flipped = bytearray(true.labels[0][0])
    flipped[20] ^= 1
    bent = ((bytes(flipped), *true.labels[0][1:]), true.labels[1])
    for lie, key in (
        (swapped, result.left.link_key),
        (msgspec.structs.replace(true, labels=bent), result.left.link_key),
        (true, bytes(32)),
    ):
        with pytest.raises(psi.MessageError, match="holds a token that is not one of"):
            lie.table(key)
    with pytest.raises(psi.PsiError, match="hold different tables"):
        combine([true, swapped], result.left.link_key)


def ended_at(server):
    """Wait until the server has ended its calls too: one upload of a party refuses the next."""
    calls, give_up = server._server._inner._tasks, time.monotonic() + 60
    while calls:
        assert time.monotonic() < give_up, "A call did not end."
        time.sleep(0.005)


@pytest.mark.parametrize("how", DEVIATIONS)
def test_one_frame_that_is_not_as_agreed_ends_an_upload(how, uploads):
    result, a, b = uploads

    class Deviates(service.RemoteLinker):
        at = NEVER

        @contextlib.contextmanager
        def _call(self, wait_s=0.0):
            with super()._call(wait_s) as line:
                frames[:] = [deviate(line, at, how)]
                yield line

    frames, at = [], NEVER
    quick = Options(timeout_s=0.8 if how in WAITED_FOR else 20)
    one = linker.Linker(("statcan", "cbs"))
    with contextlib.closing(service.LinkerServer(one, LINKER, options=quick)) as server:
        evil = Deviates("linker", f"127.0.0.1:{server.port}", STATCAN, quick)
        accepted = []
        for at in range(7):  # the header, and announcement, rows and end of labels and of rows
            one._waiting.clear()
            ended = outcome(lambda: evil.send(a, wait_s=20)[0])
            ended_at(server)
            if not isinstance(ended, Exception):
                accepted.append((at, ended))
            else:
                assert refused(ended), at
                assert not one._waiting
        # A header is the party's own word: with a bit flipped it is that of another upload.
        assert [at for at, pairs in accepted if at] == [6] * (how == "sends it twice")
        assert all(pairs == -1 for _, pairs in accepted)
        assert not one.is_linked(result.left.session)
    at = NEVER
    one._waiting.clear()
    patient = Options(timeout_s=20)
    with contextlib.closing(service.LinkerServer(one, LINKER, options=patient)) as server:
        parties = (Deviates, STATCAN, a), (service.RemoteLinker, CBS, b)
        for (kind, party, table), pairs in zip(parties, (-1, 40), strict=True):
            honest = kind("linker", f"127.0.0.1:{server.port}", party, patient)
            assert honest.send(table, wait_s=20)[0] == pairs
    assert len(frames[0]) == 7

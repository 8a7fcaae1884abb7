"""Channels: typed messages, limits, deadlines, hostile frames, certificates, delay."""

import asyncio
import gc
import ssl
import threading
import time
from typing import Annotated

import msgspec
import pytest

from pet_lab.parties import blocking, certificates, channel
from pet_lab.parties.certificates import (
    Credentials,
    TestAuthority,
    client_context,
    identity,
    load,
    save,
)
from pet_lab.parties.channel import HEADER, JSON, REFUSAL, Options, connect, serve
from pet_lab.parties.errors import PartyError, PeerLost, Refused

AUTHORITY = TestAuthority()
ANNE, BERT = AUTHORITY.issue("anne"), AUTHORITY.issue("bert")
QUICK = Options(timeout_s=1.0)


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ask"):
    number: Annotated[int, msgspec.Meta(ge=0, le=9)]
    text: Annotated[str, msgspec.Meta(max_length=5)] = ""


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stop"):
    why: str


async def echo(line):
    while True:
        ask = await line.receive(Ask | Stop)
        if isinstance(ask, Stop):
            raise PeerLost("carol", f"carol is gone: {ask.why}")
        await line.send(ask)


def with_server(talk, handle=echo, options=QUICK, credentials=ANNE, **more):
    """Run `talk(port)` against a server of bert's; returns what it returns."""

    async def run():
        server = await serve(BERT, handle, options=options, **more)
        try:
            return await talk(server.port)
        finally:
            await server.close()

    return asyncio.run(run())


async def dial(port, credentials=ANNE, peer="bert", options=QUICK, **more):
    return await connect(credentials, peer, "127.0.0.1", port, options=options, **more)


# --- messages -------------------------------------------------------------------------------------


def test_typed_messages_arrive_and_are_recorded_without_content():
    async def talk(port):
        async with await dial(port) as line:
            await line.send(Ask(7, "xyz"))
            answer = await line.receive(Ask)
            return answer, line.record, line.peer

    noted = []
    answer, record, peer = with_server(talk, record=noted)
    assert answer == Ask(7, "xyz")
    assert peer == "bert"
    assert [(m.sender, m.receiver, m.kind) for m in record] == [("anne", "bert", "ask")]
    assert [(m.sender, m.receiver, m.kind) for m in noted] == [("bert", "anne", "ask")]
    assert record[0].size == HEADER.size + len(b'{"type":"ask","number":7,"text":"xyz"}')


def test_an_error_of_one_side_is_raised_at_the_other_with_its_class_and_parties():
    async def talk(port):
        async with await dial(port) as line:
            await line.send(Stop("lunch"))
            with pytest.raises(PeerLost, match="carol is gone: lunch") as caught:
                await line.receive(Ask)
            assert caught.value.party == "carol"
            with pytest.raises(PeerLost, match="carol"):
                await line.send(Ask(1))  # and again, for whoever goes on

    with_server(talk)


@pytest.mark.parametrize("side", ["peer", "own"])
def test_a_connection_that_is_already_gone_can_be_closed_twice(side):
    # A handler that closes its channel, whose server then closes it again, after the peer died.
    async def leaves(line):
        await line.receive(Ask)
        line._writer.transport.abort()

    async def talk(port):
        line = await dial(port)
        if side == "own":
            line._writer.transport.abort()
        else:
            await line.send(Ask(1))
        with pytest.raises(PeerLost, match="bert left before the end"):
            await line.receive(Ask)
        for _ in range(3):
            await line.close()
        with pytest.raises(PeerLost):
            await line.send(Ask(1))

    with_server(talk, leaves)


def test_an_internal_error_does_not_tell_its_details():
    async def broken(line):
        raise RuntimeError("the secret is 42")

    async def talk(port):
        async with await dial(port) as line:
            with pytest.raises(Refused, match="An internal error ended the call"):
                await line.receive(Ask)

    with_server(talk, broken)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b'{"type":"ask","number":1,"more":2}', "unknown field `more`"),
        (b'{"type":"ask","number":10}', "<= 9"),
        (b'{"type":"ask","number":1.5}', "Expected `int`"),
        (b'{"type":"ask","number":NaN}', "malformed"),
        (b'{"type":"ask","number":1,"text":"abcdef"}', "length <= 5"),
        (b'{"type":"ask"}', "missing required field"),
        (b'{"type":"open the safe"}', "Invalid value"),
        (b"[" * 9000, "Expected `object`"),
        (b"\xff" * 40, "malformed|invalid"),
        (b"", "truncated"),
    ],
    ids=repr,
)
def test_what_is_no_message_is_refused_in_one_sentence(raw, sentence):
    async def talk(port):
        async with await dial(port) as line:
            await line._send(JSON, (raw,), "rubbish")
            with pytest.raises(Refused, match=sentence) as caught:
                await line.receive(Ask)
            assert "Traceback" not in str(caught.value)
            assert str(caught.value).startswith("anne sent something else")

    with_server(talk)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\xff\xff\xff\xff\x01", "has at most .* announced 4294967295"),
        (HEADER.pack(3, 99) + b"abc", "an unknown form where a typed message"),
        (HEADER.pack(3, 2) + b"abc", "raw bytes where a typed message"),
        (HEADER.pack(9, REFUSAL) + b"{not json", "words that cannot be read"),
        (HEADER.pack(50, JSON) + b"{", "sent nothing for 1 s"),
        (b"\x00", "sent nothing for 1 s"),
        (b"GET / HTTP/1.1\r\n\r\n", "has at most"),
    ],
    ids=repr,
)
def test_hostile_frames_end_the_call_and_not_the_server(raw, sentence):
    ended = []

    async def note(line):
        try:
            await echo(line)
        except PartyError as error:
            ended.append(str(error))
            raise

    async def talk(port):
        async with await dial(port) as line:
            line._writer.write(raw)
            with pytest.raises(PartyError):
                await line.receive(Ask, within=3)
        async with await dial(port) as line:  # the next one is served
            await line.send(Ask(1))
            assert await line.receive(Ask) == Ask(1)

    with_server(talk, note)
    assert ended
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(ended[0])


def test_a_refusal_cannot_pick_a_class_that_is_no_party_error():
    async def hostile(line):
        raw = b'{"error":"SystemExit","sentence":"be\\u0007come\\nroot","parties":["x"]}'
        await line._send(REFUSAL, (raw,), "refusal")

    async def talk(port):
        async with await dial(port) as line:
            with pytest.raises(Refused, match=r"^becomeroot$") as caught:
                await line.receive(Ask)
            assert type(caught.value) is Refused

    with_server(talk, hostile)


def test_a_peer_that_takes_nothing_is_noticed_by_the_sender():
    async def deaf(line):
        line._pump.cancel()
        await asyncio.sleep(3)

    async def talk(port):
        line = await dial(port)

        async def flood():
            for _ in range(100):
                await line.send_bytes(bytes(2**20))

        with pytest.raises(PeerLost, match="bert took nothing for 1 s"):
            await flood()
        line._writer.transport.abort()

    with_server(talk, deaf)


def test_a_sender_learns_of_a_refusal_before_it_is_through():
    async def picky(line):
        await line.receive_bytes()
        raise Refused("Not this.")

    async def talk(port):
        async def flood():
            for _ in range(2000):
                await line.send_bytes(bytes(2**18))
                await asyncio.sleep(0)

        async with await dial(port) as line:
            with pytest.raises(Refused, match=r"Not this\."):
                await flood()

    with_server(talk, picky)


def test_too_long_a_message_is_refused_before_it_leaves():
    async def talk(port):
        async with await dial(port, options=Options(max_frame=100)) as line:
            with pytest.raises(Refused, match="at most 100 bytes, got 101"):
                await line.send_bytes(bytes(100), b"x")

    with_server(talk)


def test_a_port_in_use_is_one_sentence():
    async def second(port):
        with pytest.raises(PartyError, match=rf"{port} cannot be listened at \(.*in use.*choose"):
            await serve(ANNE, echo, port=port)
        with pytest.raises(PartyError, match="choose a port that is free"):
            await serve(ANNE, echo, host="no.such.host.invalid")

    with_server(second)


def test_a_peer_that_leaves_is_named():
    async def leave(line):
        return

    async def talk(port):
        async with await dial(port) as line:
            with pytest.raises(PeerLost, match="bert left before the end") as caught:
                await line.receive(Ask)
            assert caught.value.party == "bert"

    with_server(talk, leave)


def test_more_connections_than_allowed_are_closed():
    async def hold(line):
        await asyncio.sleep(5)

    async def talk(port):
        async with await dial(port):
            with pytest.raises((PeerLost, Refused)):
                await dial(port)

    with_server(talk, hold, at_most=1)


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half"])
def test_who_shows_no_certificate_makes_room(first):
    """A hundred handshakes that never end, at a server of two: both members are served at once."""

    async def talk(port):
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for _, writer in strangers:
            writer.write(first)
        async with asyncio.timeout(channel.HANDSHAKE_S / 2):
            async with await dial(port) as one, await dial(port) as other:
                for line in (one, other):
                    await line.send(Ask(3))
                    assert (await line.receive(Ask)).number == 3
                with pytest.raises((PeerLost, Refused)):
                    await dial(port)  # members do not make room for others
        for _, writer in strangers:
            writer.transport.abort()

    with_server(talk, at_most=2, options=Options())


# --- certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        (AUTHORITY.issue("anne", days=-1), "certificate has expired"),
        (AUTHORITY.issue("anne", days=9, starts_in_days=5), "not yet valid"),
        (TestAuthority("other").issue("anne"), "unable to get local issuer|signature failure"),
    ],
    ids=["expired", "not yet valid", "other authority"],
)
def test_a_client_whose_certificate_is_not_accepted_is_turned_away(stranger, reason):
    stranger = Credentials(stranger.name, ANNE.ca, stranger.certificate, stranger.key)
    reasons = []

    async def talk(port):
        async def knock():
            async with await dial(port, stranger) as line:
                await line.send(Ask(1))
                await line.receive(Ask)

        with pytest.raises((Refused, PeerLost), match=r"turned us away|left before"):
            await knock()
        async with await dial(port) as line:
            await line.send(Ask(1))
            assert await line.receive(Ask) == Ask(1)

    with_server(talk, turned_away=reasons.append)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(reasons)


def test_no_certificate_old_tls_and_no_tls_are_turned_away():
    reasons = []
    bare = ssl.create_default_context(cadata=BERT.ca.decode())
    old = client_context(ANNE)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2

    async def talk(port):
        for context in (bare, old, None):
            name = {"server_hostname": "bert"} if context else {}
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, **name
                )
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                assert await asyncio.wait_for(reader.read(100), 5) == b""
            except OSError:
                continue  # an alert, or a reset

    with_server(talk, turned_away=reasons.append)
    assert len(reasons) == 3


@pytest.mark.parametrize("who", ["another name", "expired", "other authority"])
def test_a_server_whose_certificate_does_not_fit_is_not_talked_to(who):
    async def run():
        wrong = {
            "another name": AUTHORITY.issue("carol"),
            "expired": AUTHORITY.issue("bert", days=-1),
            "other authority": TestAuthority("other").issue("bert"),
        }[who]
        server = await serve(wrong, echo)
        try:
            with pytest.raises(Refused, match="The certificate of bert is not accepted"):
                await dial(server.port)
        finally:
            await server.close()

    asyncio.run(run())


def test_a_party_is_the_one_name_in_its_certificate():
    assert identity({"subjectAltName": (("DNS", "anne"), ("IP Address", "::1"))}) == "anne"
    for names in ((), (("DNS", "anne"), ("DNS", "bert")), (("IP Address", "::1"),)):
        with pytest.raises(Refused, match="names exactly one party"):
            identity({"subjectAltName": names})
    with pytest.raises(Refused):
        identity(None)


@pytest.mark.parametrize(
    "names",
    [
        (("DNS", "anne"), ("DNS", "bert")),
        (("DNS", "anne"), ("URI", "bert")),
        (("URI", "anne"),),
        (("email", "anne"),),
        (("IP Address", "127.0.0.1"),),
    ],
)
def test_a_name_of_another_kind_or_a_second_one_is_nobody(names):
    assert certificates.identity({"subjectAltName": (("DNS", "anne"),)}) == "anne"
    with pytest.raises(Refused, match=r"names exactly one party|by a DNS name"):
        certificates.identity({"subjectAltName": names})


def test_credentials_are_for_their_owner_only(tmp_path, monkeypatch):
    home = save(ANNE, tmp_path / "anne")
    assert (home / "key.pem").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert load(home) == ANNE
    monkeypatch.setenv("PET_LAB_CREDENTIALS", str(home))
    assert load().name == "anne"
    assert "PRIVATE" not in repr(ANNE)
    assert len(repr(ANNE)) < 60
    (home / "key.pem").chmod(0o644)
    with pytest.raises(PartyError, match="chmod 600"):
        load(home)
    monkeypatch.delenv("PET_LAB_CREDENTIALS")
    with pytest.raises(PartyError, match="No credentials"):
        load()
    with pytest.raises(PartyError, match=r"ca\.pem, cert\.pem and key\.pem, got: No such file"):
        load(tmp_path)
    home = save(ANNE, tmp_path / "anne")
    (home / "cert.pem").write_bytes(b"nothing")
    with pytest.raises(PartyError, match="Expected a certificate that names"):
        load(home)


@pytest.mark.parametrize("name", ["", "Anne", "*.example", "a b", "a/b", "x" * 80, "-a"])
def test_an_identity_is_a_plain_name(name):
    with pytest.raises(PartyError, match="An identity is"):
        AUTHORITY.issue(name)


# --- time -----------------------------------------------------------------------------------------


def test_nobody_there_is_said_at_once_or_after_the_wait():
    async def run():
        begun = time.monotonic()
        with pytest.raises(PeerLost, match="nobody answers at 127"):
            await dial(1)
        assert time.monotonic() - begun < 0.5
        with pytest.raises(PeerLost, match="nobody answers"):
            await dial(1, wait_s=0.4)
        assert time.monotonic() - begun > 0.4

    asyncio.run(run())


def test_a_delay_adds_a_round_trip_to_each_exchange_and_one_delay_to_a_stream():
    delay = Options(delay_s=0.05)

    async def run():
        first, second = await channel.memory_pair("anne", "bert", options=delay)
        begun = time.monotonic()
        for i in range(3):
            await first.send(Ask(i))
            await second.send(await second.receive(Ask))
            assert await first.receive(Ask) == Ask(i)
        exchanges = time.monotonic() - begun
        begun = time.monotonic()
        for i in range(50):
            await first.send(Ask(i % 10))
        numbers = [(await second.receive(Ask)).number for _ in range(50)]
        stream = time.monotonic() - begun
        await first.close()
        await second.close()
        return exchanges, numbers, stream

    exchanges, numbers, stream = asyncio.run(run())
    assert 0.3 <= exchanges < 0.6
    assert numbers == [i % 10 for i in range(50)]
    assert 0.05 <= stream < 0.3


# --- for synchronous code -------------------------------------------------------------------------


def test_synchronous_parties_stream_in_both_directions_with_bounded_memory():
    """64 MiB through a slow reader: the sender waits, nothing piles up."""
    import resource

    piece, pieces = bytes(2**18), 256
    sums = []

    def handle(line):
        total = 0
        for _ in range(pieces):
            total += len(line.receive_bytes())
            time.sleep(0.0005)
        line.send_bytes(b"x", memoryview(b"yz"), kind="sum")
        sums.append(total)

    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        blocking.serve(BERT, handle) as server,
        blocking.connect(ANNE, "bert", "127.0.0.1", server.port) as line,
    ):
        for _ in range(pieces):
            line.send_bytes(piece)
        assert line.receive_bytes() == b"xyz"
        assert len(line.record) == pieces
    assert sums == [64 * 2**20]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024


def test_what_was_sent_before_closing_arrives():
    def handle(line):
        for _ in range(20):
            line.send_bytes(bytes(2**18))

    with (
        blocking.serve(BERT, handle) as server,
        blocking.connect(ANNE, "bert", "127.0.0.1", server.port) as line,
    ):
        time.sleep(0.3)
        assert sum(len(line.receive_bytes()) for _ in range(20)) == 20 * 2**18
        with pytest.raises(PeerLost, match="left before the end"):
            line.receive_bytes()


def test_a_pair_in_memory_has_the_same_limits_and_deadlines():
    first, second = blocking.memory_pair("anne", "bert", options=Options(timeout_s=0.2))
    first.send(Ask(3))
    assert second.receive(Ask) == Ask(3)
    with pytest.raises(PeerLost, match=r"anne sent nothing for 0\.2 s"):
        second.receive(Ask)
    with pytest.raises(PeerLost, match=r"anne sent nothing for 0\.1 s"):
        second.receive_bytes(within=0.1)
    second.refuse(Refused("No more."))
    with pytest.raises(Refused, match=r"No more\."):
        first.receive(Ask)
    first.close()
    second.close()
    first.close()


def test_one_thread_sends_while_another_receives():
    first, second = blocking.memory_pair("anne", "bert")

    def talk(line):
        sender = threading.Thread(target=lambda: [line.send_bytes(bytes(2**18)) for _ in range(40)])
        sender.start()
        total = sum(len(line.receive_bytes()) for _ in range(40))
        sender.join()
        return total

    totals = []
    threads = [threading.Thread(target=lambda x=x: totals.append(talk(x))) for x in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert totals == [40 * 2**18] * 2
    first.close()
    second.close()

"""Data holders and linker over mutual TLS: real processes, and every way to be turned away."""

import functools
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from hostile import mutate
from typer.testing import CliRunner

from pet_lab import psi
from pet_lab.parties import blocking, certificates, channel
from pet_lab.parties.certificates import TestAuthority
from pet_lab.parties.channel import Options
from pet_lab.parties.errors import PartyError, Refused
from pet_lab.psi import commands, end_to_end, service, tokens
from pet_lab.psi.disclosure import OutputRules
from pet_lab.psi.linker import Linker, LinkerAnswer, Query
from pet_lab.psi.messages import Hello, Stream
from pet_lab.psi.rsa_blind import RsaEngine
from pet_lab.psi.session import PsiSession, run_party

AUTHORITY = TestAuthority()
STATCAN, CBS, ISTAT, LINKER = (AUTHORITY.issue(n) for n in ("statcan", "cbs", "istat", "linker"))
QUICK = Options(timeout_s=5)


def parties(n=300):
    rng = np.random.default_rng(4)
    left = pd.DataFrame(
        {"id": [f"{i:05d}" for i in range(n)], "pref": rng.choice(["100", "300"], n)}
    )
    right = pd.DataFrame(
        {"id": [f"{i + n // 3:05d}" for i in range(n)], "size": rng.choice(["small", "large"], n)}
    )
    return psi.DataHolder("statcan", left), psi.DataHolder("cbs", right)


def until(condition, timeout=10):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def speaking(holder, role, engine=None):
    return functools.partial(
        run_party, engine or psi.EcdhEngine(), holder=holder, role=role, on="id"
    )


class Served:
    """`service.serve` in a thread: its port, and later what it returned or raised."""

    def __init__(self, holder, *, credentials=CBS, engine=None, timeout_s=5, wait_s=10):
        self.outcome = self.error = None
        ports = []
        ready = threading.Event()

        def started(port):
            ports.append(port)
            ready.set()

        def work():
            try:
                self.outcome = service.serve(
                    speaking(holder, "responder", engine),
                    peer="statcan",
                    credentials=credentials,
                    started=started,
                    options=Options(timeout_s=timeout_s),
                    wait_s=wait_s,
                )
            except PartyError as error:
                self.error = error

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        assert ready.wait(10)
        self.port = ports[0]
        self.address = f"127.0.0.1:{self.port}"

    def result(self):
        self.thread.join(20)
        assert not self.thread.is_alive(), "the serving party hangs"
        if self.error:
            raise self.error
        return self.outcome


def join(holder, address, *, credentials=STATCAN, engine=None, timeout_s=5, wait_s=2):
    options = Options(timeout_s=timeout_s)
    channel = service.connect(credentials, "cbs", address, options=options, wait_s=wait_s)
    return speaking(holder, "initiator", engine)(channel)


def connected(port, credentials=STATCAN, name="cbs"):
    return blocking.connect(credentials, name, "127.0.0.1", port, options=QUICK)


def put(line, raw, form=channel.JSON):
    blocking._run(line._inner._send(form, (raw,), "hostile"))


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("total", [None, "statcan:pref"], ids=["count", "total"])
def test_separate_processes_over_mutual_tls_answer_like_the_tables_in_clear(total):
    left, right = parties()
    run = end_to_end.run(
        left,
        right,
        on=["id"],
        by=["cbs:size"],
        columns={"statcan": [], "cbs": ["size"]},
        total=total,
        values={"statcan": ["pref:0"]} if total else None,
        separate=True,
        timeout_s=120,
    )
    joined = left.frame.astype({"pref": int}).merge(right.frame, on="id").groupby("size")["pref"]
    clear = joined.sum() if total else joined.size()
    answer = run.table.set_index("size")["total" if total else "count"]
    assert answer.astype(int).to_dict() == clear.to_dict()
    assert run.cardinality == 200
    linkers = ["linker-a", "linker-b"] if total else ["linker"]
    assert run.costs["process"].tolist() == ["statcan", "cbs", *linkers]
    assert (run.costs["bytes_sent"].head(2) > 300 * 64).all()


@pytest.mark.slow
def test_a_party_that_is_killed_in_the_middle_is_noticed_and_ends_the_other(tmp_path):
    # The joining process is killed while it is in a slow RSA session.
    left, right = parties(1500)
    homes = {c.name: certificates.save(c, tmp_path / c.name) for c in (STATCAN, CBS)}
    for holder in (left, right):
        holder.frame.to_csv(tmp_path / f"{holder.name}.csv", index=False)

    def arguments(command, holder, peer):
        return [
            command,
            *("--data", str(tmp_path / f"{holder.name}.csv")),
            *("--on", "id", "--peer", peer.name, "--engine", "rsa-3072", "--timeout", "60"),
        ]

    serves = arguments("serve", right, left)
    with end_to_end.party_process("cbs", serves, homes["cbs"]) as second:
        port = second.wait_for("listening", 60)["port"]
        joins = [*arguments("join", left, right), "--connect", f"127.0.0.1:{port}"]
        with end_to_end.party_process("statcan", joins, homes["statcan"]) as first:
            until(lambda: _connected(port), 60)
            time.sleep(0.5)
            os.killpg(first.popen.pid, signal.SIGKILL)
        assert second.popen.wait(60) == 1
        assert second.last_words() == "statcan left before the end."


def _connected(port):
    import psutil

    return any(
        c.raddr and c.raddr.port == port and c.status == "ESTABLISHED"
        for c in psutil.net_connections("tcp")
    )


@pytest.mark.slow
def test_a_linker_process_stops_at_once_though_a_caller_says_nothing(tmp_path):
    home = certificates.save(LINKER, tmp_path / "linker")
    arguments = ["linker", "--party", "statcan", "--party", "cbs"]
    with end_to_end.party_process("linker", arguments, home) as process:
        port = process.wait_for("listening", 60)["port"]
        with connected(port, name="linker"):
            time.sleep(0.2)
            process.popen.terminate()
            process.wait_for("stopped", 10)
            assert process.popen.wait(10) == 0


def test_a_party_process_shows_no_secret_in_its_command_line(tmp_path):
    # What the machine's other users can see of a process that holds a key.
    home = certificates.save(LINKER, tmp_path / "linker")
    arguments = ["linker", "--party", "statcan", "--party", "cbs"]
    with end_to_end.party_process("linker", arguments, home) as process:
        process.wait_for("listening", 60)
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args", "-p", str(process.popen.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "pet_lab.psi.commands linker" in shown
        for line in LINKER.key.decode().splitlines():
            assert line not in shown


# -- sessions over TLS, both ends in this process ------------------------------------------------


@pytest.mark.parametrize("engine", [psi.EcdhEngine(), RsaEngine(2048)], ids=repr)
def test_a_session_over_tls_is_the_session_in_memory(engine):
    left, right = parties()
    served = Served(right, engine=engine)
    mine = join(left, served.address, engine=engine)
    theirs = served.result()
    assert mine.cardinality == theirs.cardinality == 200
    assert mine.link_key == theirs.link_key
    assert mine.session == theirs.session
    in_left = left.frame["id"].to_numpy()[mine.positions]
    in_right = right.frame["id"].to_numpy()[theirs.positions]
    assert (in_left == in_right).all()


STRANGERS = {
    "expired": lambda: AUTHORITY.issue("statcan", days=-1),
    "not yet valid": lambda: AUTHORITY.issue("statcan", days=9, starts_in_days=5),
    "other authority": lambda: TestAuthority("other").issue("statcan"),
    "another name": lambda: ISTAT,
}


@pytest.mark.parametrize("who", STRANGERS)
def test_whoever_lacks_the_right_certificate_is_turned_away(who):
    left, right = parties(30)
    served = Served(right)
    stranger = STRANGERS[who]()
    with pytest.raises(PartyError) as caught:
        join(psi.DataHolder(stranger.name, left.frame), served.address, credentials=stranger)
    assert ("waits for another peer" in str(caught.value)) == (who == "another name")
    assert "Traceback" not in str(caught.value)
    # The party still waits for its own peer, and serves it.
    assert join(left, served.address).cardinality == served.result().cardinality == 20


NAMES = {
    "two names": (["statcan", "cbs"], None),
    "a name and an e-mail address": (["statcan", "who@statcan"], None),
    "an e-mail address": (["who@statcan"], None),
    "an address": (["127.0.0.1"], None),
    "a wildcard": (["*.statcan.example"], None),
    "a common name": (["who@statcan"], "statcan"),
}


def named(identities, common_name):
    leaf = AUTHORITY._authority.issue_cert(*identities, common_name=common_name)
    return certificates.Credentials(
        "statcan",
        AUTHORITY.certificate,
        leaf.cert_chain_pems[0].bytes(),
        leaf.private_key_pem.bytes(),
    )


@pytest.mark.parametrize("which", NAMES)
def test_a_party_is_the_one_dns_name_of_its_certificate(which):
    left, right = parties(30)
    served = Served(right)
    stranger = named(*NAMES[which])
    with pytest.raises(PartyError):
        join(psi.DataHolder("statcan", left.frame), served.address, credentials=stranger)
    assert join(left, served.address).cardinality == served.result().cardinality == 20


@pytest.mark.parametrize("identities", [["*.cbs.org"], ["a.cbs.org", "b.cbs.org"]])
def test_a_server_is_the_one_dns_name_of_its_certificate(identities):
    server = blocking.serve(named(identities, None), lambda channel: None)
    with server, pytest.raises(Refused, match=r"names exactly one party|by a DNS name"):
        blocking.connect(STATCAN, "a.cbs.org", "127.0.0.1", server.port, options=QUICK)


def test_the_service_speaks_tls_1_3():
    _, right = parties(30)
    served = Served(right)
    with connected(served.port) as line:
        assert line._inner._writer.get_extra_info("ssl_object").version() == "TLSv1.3"


def without_certificate(context):
    context.load_verify_locations(cadata=CBS.ca.decode())


def older_version(context):
    without_certificate(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("how", [None, without_certificate, older_version])
def test_plain_text_and_callers_without_a_certificate_learn_nothing(how):
    left, right = parties(30)
    served = Served(right)
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain:
        try:
            line = plain
            if how is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                how(context)
                line = context.wrap_socket(plain, server_hostname="cbs")
            line.sendall(b"GET / HTTP/1.1\r\nHost: cbs\r\n\r\n")
            answer = line.recv(4096)
        except (ssl.SSLError, ConnectionError):
            answer = b""
    # A TLS alert has 7 bytes; nothing of ours is in it, and nothing else comes.
    assert len(answer) <= 7
    assert join(left, served.address).cardinality == served.result().cardinality == 20


def test_a_server_of_another_name_or_with_an_expired_certificate_is_not_talked_to():
    left, right = parties(30)
    for credentials in (ISTAT, AUTHORITY.issue("cbs", days=-1)):
        served = Served(right, credentials=credentials, wait_s=1.5)
        with pytest.raises(Refused, match="The certificate of cbs is not accepted"):
            join(left, served.address)
        with pytest.raises(psi.PeerLost, match=r"did not come within 1\.5 s"):
            served.result()


def test_a_party_speaks_in_the_name_of_its_certificate_only():
    left, right = parties(30)
    served = Served(right)
    with pytest.raises(psi.PsiError, match="certificate is for statcan, the data holder is cbs"):
        join(right, served.address)
    with pytest.raises(psi.PsiError, match="certificate is for statcan, the data holder is cbs"):
        served.result()
    for address in ("http://x", "h:x", "h:99999", ":1", "h h:1"):
        with pytest.raises(psi.PsiError, match="An address is host:port"):
            join(left, address)
    with pytest.raises(psi.PeerLost, match="nobody answers at 127"):
        join(left, "127.0.0.1:1", wait_s=0.2)


def test_a_second_session_and_other_requests_are_refused_in_one_sentence():
    class Slow(psi.EcdhEngine):
        def speak(self, talk):
            time.sleep(0.5)
            return super().speak(talk)

    left, right = parties(30)
    served = Served(right, engine=Slow())
    first = threading.Thread(target=join, args=(left, served.address))
    first.start()
    time.sleep(0.25)
    with pytest.raises(psi.PsiError, match="already under way or over"):
        join(left, served.address, wait_s=0.2)
    first.join()
    assert served.result().cardinality == 20
    for request in (
        Query(session=bytes(16), group_by=("a:b",)),
        service.StatusRequest(bytes(16)),
    ):
        served = Served(right)
        with connected(served.port) as line:
            line.send(request)
            with pytest.raises(PartyError, match="something else than a Hello"):
                line.receive(Hello)
        with pytest.raises(PartyError, match="something else than a Hello"):
            served.result()


@pytest.mark.parametrize(
    "raw", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"PLAB" + bytes(40)], ids=repr
)
@pytest.mark.parametrize("form", [channel.JSON, channel.BYTES, 77])
def test_rubbish_over_an_authenticated_channel_is_answered_with_one_sentence(raw, form):
    _, right = parties(30)
    served = Served(right)
    with connected(served.port) as line:
        put(line, raw, form)
        with pytest.raises(PartyError) as caught:
            line.receive(Hello)
    assert "Traceback" not in str(caught.value)
    assert "internal error" not in str(caught.value)
    with pytest.raises(PartyError):
        served.result()


def test_a_message_longer_than_allowed_is_refused_before_it_is_read():
    _, right = parties(30)
    served = Served(right)
    with connected(served.port) as line:
        inner = line._inner

        async def announce():
            inner._writer.write(channel.HEADER.pack(1 << 31, channel.JSON))
            await inner._writer.drain()

        blocking._run(announce())
        with pytest.raises(psi.PeerLost, match="cbs left before the end"):
            line.receive(Hello)
    with pytest.raises(Refused, match="at most 2097152 bytes, statcan announced 2147483648"):
        served.result()


def test_silence_after_the_connection_is_ended_by_the_server():
    _, right = parties(30)
    served = Served(right, timeout_s=1)
    begun = time.monotonic()
    with connected(served.port) as line:
        with pytest.raises(psi.PeerLost, match="statcan sent nothing for 1 s"):
            served.result()
        assert time.monotonic() - begun < 8
        with pytest.raises(psi.PeerLost, match="cbs left before the end"):
            line.receive(Hello)


def test_silence_of_the_server_is_ended_by_the_client():
    class Silent(psi.EcdhEngine):
        def speak(self, talk):
            time.sleep(3)
            raise psi.PsiError("Slept.")

    left, right = parties(30)
    served = Served(right, engine=Silent())
    with pytest.raises(psi.PeerLost, match="cbs sent nothing for 1 s"):
        join(left, served.address, timeout_s=1)
    with pytest.raises(psi.PsiError):
        served.result()


def test_the_reason_of_one_side_reaches_the_other():
    left, right = parties(30)
    served = Served(psi.DataHolder("cbs", right.frame.assign(id=7)))
    with pytest.raises(psi.PsiError, match="leading zeros may be lost"):
        join(left, served.address)
    with pytest.raises(psi.PsiError, match="leading zeros may be lost"):
        served.result()


# -- the linker ------------------------------------------------------------------------------------


@pytest.fixture
def linked():
    left, right = parties()
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id", variant="analytics")
    (a,) = tokens.tables_for_linkers(left, result.left, on="id", columns=["pref"])
    (b,) = tokens.tables_for_linkers(right, result.right, on="id", columns=["size"])
    linker = Linker(("statcan", "cbs"), rules=OutputRules(min_cell=5))
    server = service.LinkerServer(linker, LINKER, options=QUICK)
    yield server, f"127.0.0.1:{server.port}", result, a, b
    server.close()


def test_a_row_at_a_time_is_refused(linked):
    _, address, _, a, _ = linked
    header = a.header
    with connected(int(address.rpartition(":")[2]), name="linker") as line:
        session = PsiSession(line)
        line.send(header)
        for labels in a.labels.values():
            session.send("tokens", labels)
        stream = Stream(
            kind="tokens", session=bytes(16), number=1, width=header.width, count=len(a)
        )
        line.send(stream)
        line.send_bytes(a.pack()[0].tobytes())
        with pytest.raises(psi.MessageError, match="more came, none, or parts"):
            line.receive(service.Receipt)


def test_an_upload_that_falls_silent_ends_in_time_and_neither_party_keeps_the_other_out(linked):
    one, address, _, a, b = linked
    server = service.LinkerServer(one.linker, LINKER, options=QUICK)
    server.call_s = 1.0
    address = f"127.0.0.1:{server.port}"
    begun = time.monotonic()
    with connected(server.port, name="linker") as line:
        session = PsiSession(line)
        line.send(a.header)
        for labels in a.labels.values():
            session.send("tokens", labels)
        with pytest.raises(psi.PeerLost, match="linker left before the end"):
            line.receive(service.Receipt)
        assert 0.9 < time.monotonic() - begun < 8
    silent = [connected(server.port, name="linker") for _ in range(2 * service.MAX_CALLS)]
    try:
        assert send(b, address, CBS)[0] == -1
        with pytest.raises(psi.PsiError, match="statcan has 4 calls under way"):
            send(a, address, STATCAN)
        until(lambda: all(s._value == service.MAX_CALLS for s in server._calls.values()))
        assert send(a, address, STATCAN)[0] == 200
    finally:
        for line in silent:
            line.close()
        server.close()


def test_files_of_common_rows_and_of_a_session_are_0600(tmp_path):
    left, right = parties(30)
    served = Served(right)
    left.frame.to_csv(tmp_path / "left.csv", index=False)
    home = certificates.save(STATCAN, tmp_path / "home")
    words = f"join --data {tmp_path}/left.csv --on id --peer cbs --connect {served.address}"
    more = f" --credentials {home} --out {tmp_path}/rows.csv --timeout 5 --wait 5"
    more += f" --state {tmp_path}/kept"
    done = CliRunner().invoke(commands.app, (words + more).split())
    assert done.exit_code == 0, done.output
    for file in ("rows.csv", "kept"):
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + served.result().cardinality


COMMAND = "join --data {folder}/left.csv --on id --peer cbs --connect {peer} --wait 1"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--on nowhere", "statcan has no column 'nowhere'; its columns are id, pref, long, gap"),
        ("--on gap", "rows lack a part of"),
        ("--on pref=gap", "has a column 'gap' beside 'pref'; rename or drop it"),
        ("--variant enrichment --column nowhere", "no column 'nowhere'"),
        ("--column pref", "need a linker; name --linker"),
        ("--linker {linker} --column nowhere", "no column 'nowhere'"),
        ("--linker {linker} --column gap", "missing values; give them a label"),
        ("--linker {linker} --column long", "at most 31 bytes; long has one of 40"),
        ("--linker {linker} --column pref --label pref=100", "not in its public list"),
        ("--linker {linker} --column pref --label long=x", "belong to columns that are sent"),
        ("--linker {linker} --value pref:0", "two linkers that do not collude"),
        ("--linker {linker} --value pref", "written COLUMN:DECIMALS"),
        ("--linker {linker} --column pref --by statcan:size", "statcan:size is none"),
        ("--linker {linker} --column pref --by pref", "as PARTY:COLUMN"),
        ("--linker {linker} --column pref --total cbs:v", "name --by PARTY:COLUMN"),
        ("--linker linker --column pref", "written NAME@HOST:PORT"),
        ("--linker linker@127.0.0.1:9 --column pref", "linker"),
        ("--linker clerk@{address} --column pref", "clerk"),
    ],
)
def test_what_cannot_work_is_refused_before_the_peer_hears_anything(tmp_path, linked, more, said):
    left = parties(30)[0].frame.assign(long="x" * 40, gap=["", *"y" * 29])
    left.to_csv(tmp_path / "left.csv", index=False)
    with socket.socket() as peer:
        peer.bind(("127.0.0.1", 0))
        peer.listen()
        peer.settimeout(0.1)
        words = {"folder": tmp_path, "peer": f"127.0.0.1:{peer.getsockname()[1]}"}
        words |= {"address": linked[1], "linker": f"linker@{linked[1]}"}
        home = certificates.save(STATCAN, tmp_path / "home")
        command = f"{COMMAND} {more} --credentials {home}".format(**words)
        done = CliRunner().invoke(commands.app, command.split())
        unanswered = "@127.0.0.1:9" in more or "clerk@" in more
        assert done.exit_code == (1 if unanswered else 2)
        assert said in done.output
        assert done.output.count("\n") == 1
        with pytest.raises(TimeoutError):
            peer.accept()


def test_a_linker_that_serves_others_is_noticed_before_the_session(tmp_path, linked):
    parties(30)[0].frame.to_csv(tmp_path / "left.csv", index=False)
    home = certificates.save(ISTAT, tmp_path / "home")
    command = COMMAND.format(folder=tmp_path, peer="127.0.0.1:9")
    command += f" --credentials {home} --linker linker@{linked[1]} --column pref"
    done = CliRunner().invoke(commands.app, command.split())
    assert done.exit_code == 1
    assert "serves statcan and cbs only" in done.output


def test_the_key_may_have_another_name_on_each_side(tmp_path):
    left, right = parties(30)
    served = Served(right)
    left.frame.rename(columns={"id": "person"}).to_csv(tmp_path / "left.csv", index=False)
    home = certificates.save(STATCAN, tmp_path / "home")
    command = COMMAND.format(folder=tmp_path, peer=served.address).replace("id", "person=id")
    command += f" --credentials {home} --out {tmp_path}/rows.csv --timeout 5"
    done = CliRunner().invoke(commands.app, command.split())
    assert done.exit_code == 0, done.output
    common = pd.read_csv(tmp_path / "rows.csv", dtype=str)
    assert list(common.columns) == ["person", "pref"]
    assert set(common["person"]) == set(left.frame["id"]) & set(right.frame["id"])


def send(table, address, credentials):
    return at(address, credentials).send(table, wait_s=1)


def at(address, credentials=CBS):
    return service.RemoteLinker("linker", address, credentials, QUICK)


def test_tables_and_queries_over_tls(linked):
    _, address, result, a, b = linked
    asked = Query(session=result.left.session, group_by=("cbs:size", "statcan:pref"))
    one = at(address)
    with pytest.raises(psi.PsiError, match="No table of statcan and cbs is here"):
        one.ask(asked)
    assert send(a, address, STATCAN)[0] == -1
    with pytest.raises(psi.PeerLost, match="did not reach linker"):
        one.wait_until_linked(result.left.session, wait_s=0.1)
    assert send(b, address, CBS)[0] == 200
    one.wait_until_linked(result.left.session, wait_s=5)
    table = one.ask(asked).table(result.right.link_key)
    assert table["count"].sum() == 200


def test_the_linker_refuses_whoever_is_not_one_of_the_two(linked):
    _, address, result, a, _ = linked
    asked = Query(session=result.left.session, group_by=("statcan:pref",))
    with pytest.raises(psi.PsiError, match="serves statcan and cbs only"):
        at(address, ISTAT).ask(asked)
    with pytest.raises(psi.PsiError, match="serves statcan and cbs only"):
        send(a, address, ISTAT)
    with pytest.raises(psi.PsiError, match="in its own name"):
        send(a, address, CBS)  # posting as the other party
    with pytest.raises(Refused, match="not accepted"):
        send(a, address, TestAuthority().issue("statcan"))


def test_a_linker_that_restarted_says_what_to_do(linked):
    server, address, result, a, b = linked
    send(a, address, STATCAN)
    server.close()
    again = service.LinkerServer(Linker(("statcan", "cbs")), LINKER, options=QUICK)
    address = f"127.0.0.1:{again.port}"
    asked = Query(session=result.left.session, group_by=("statcan:pref",))
    with pytest.raises(psi.PsiError, match=r"No table of statcan and cbs is here .*; send it"):
        at(address).ask(asked)
    assert send(a, address, STATCAN)[0] == -1
    assert send(b, address, CBS)[0] == 200
    again.close()


def test_a_party_that_dies_while_uploading_can_upload_again(linked):
    server, address, _, a, _ = linked
    line = connected(server.port, STATCAN, "linker")
    line.send(a.header)
    until(server._uploading["statcan"].locked)
    with pytest.raises(psi.PsiError, match="already under way"):
        send(a, address, STATCAN)
    line.close()
    until(lambda: not server._uploading["statcan"].locked())
    assert send(a, address, STATCAN)[0] == -1


BODIES = [b"", b"{}", b"\xff" * 100, b"[" * 9000, json.dumps({"session": 1}).encode(), b"null"]


@pytest.mark.parametrize("body", BODIES, ids=[b[:12].decode("latin1") for b in BODIES])
def test_hostile_queries_over_tls_are_refused_in_one_sentence(linked, body):
    server, *_ = linked
    with connected(server.port, CBS, "linker") as line:
        put(line, body)
        with pytest.raises(PartyError) as caught:
            line.receive(LinkerAnswer)
    assert "Traceback" not in str(caught.value)
    assert "internal error" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hundred_mutated_uploads_are_refused_and_the_linker_lives(linked):
    server, address, result, a, _ = linked
    rng = random.Random(5)
    frames = []

    class Recorded(blocking.BlockingChannel):
        def send(self, message, *, kind=""):
            frames.append((channel.JSON, channel.msgspec.json.encode(message)))

        def send_bytes(self, *parts, kind="bytes"):
            frames.append((channel.BYTES, b"".join(parts)))

    with connected(server.port, STATCAN, "linker") as line:
        line.__class__ = Recorded
        line.send(a.header)
        for labels in a.labels.values():
            PsiSession(line).send("tokens", labels)
        line.__class__ = blocking.BlockingChannel

    def upload(line, changed):
        for i, (form, payload) in enumerate(frames):
            put(line, mutate(rng, payload) if i == changed else payload, form)
        put(line, b"", 77)
        line.receive(service.Receipt)

    for _ in range(100):
        line = connected(server.port, STATCAN, "linker")
        with line, pytest.raises(PartyError) as caught:
            upload(line, rng.randrange(len(frames)))
        assert "internal error" not in str(caught.value)
    assert send(a, address, STATCAN)[0] == -1
    assert not server.linker.is_linked(result.left.session)


def test_too_many_rows_are_refused_before_they_are_read(linked):
    server, address, _, a, _ = linked
    server.max_rows = 10
    with pytest.raises(psi.PsiError, match="at most 10 rows, got 200"):
        send(a, address, STATCAN)
    assert not server.linker._waiting


def test_an_answer_to_another_query_is_refused():
    def answers_another(line):
        asked = line.receive(Query)
        line.send(
            LinkerAnswer(
                query=Query(session=asked.session, group_by=("x:y",)),
                labels=((),),
                values=(),
                epsilon=0.0,
            )
        )

    with blocking.serve(LINKER, answers_another, options=QUICK) as server:
        query = Query(session=bytes(16), group_by=("a:b",))
        address = f"127.0.0.1:{server.port}"
        with pytest.raises(psi.MessageError, match="to another query"):
            at(address).ask(query)


def test_the_commands_load_no_other_transport():
    loaded = subprocess.run(
        [sys.executable, "-c", "import pet_lab.psi.commands, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"pyarrow.flight", "grpc", "pandas"} & set(loaded)

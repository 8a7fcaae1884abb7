"""Parties and linker over mutual TLS: three real processes, and every way to be turned away."""

import json
import logging
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pyarrow.flight as arrow_flight
import pytest

from pet_lab import psi
from pet_lab.psi import certificates, flight, processes, tokens
from pet_lab.psi.certificates import TestAuthority
from pet_lab.psi.disclosure import OutputRules
from pet_lab.psi.linker import Linker, Query
from pet_lab.psi.rsa_blind import RsaEngine

AUTHORITY = TestAuthority()
STATCAN, CBS, ISTAT, LINKER = (AUTHORITY.issue(n) for n in ("statcan", "cbs", "istat", "linker"))


def parties(n=300):
    rng = np.random.default_rng(4)
    left = pd.DataFrame(
        {"id": [f"{i:05d}" for i in range(n)], "pref": rng.choice(["100", "300"], n)}
    )
    right = pd.DataFrame(
        {"id": [f"{i + n // 3:05d}" for i in range(n)], "size": rng.choice(["small", "large"], n)}
    )
    return psi.Party("statcan", left), psi.Party("cbs", right)


def until(condition, timeout=10):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Served:
    """`flight.serve` in a thread: its port, and later what it returned or raised."""

    def __init__(self, party, *, peer="statcan", credentials=CBS, engine=None, **more):
        self.outcome = self.error = None
        ports = []
        ready = threading.Event()

        def started(port):
            ports.append(port)
            ready.set()

        def work():
            try:
                self.outcome = flight.serve(
                    party,
                    peer=peer,
                    engine=engine or psi.EcdhEngine(),
                    credentials=credentials,
                    on="id",
                    started=started,
                    **{"timeout_s": 5, "wait_s": 10, **more},
                )
            except psi.PsiError as error:
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


def join(party, address, *, peer="cbs", credentials=STATCAN, engine=None, **more):
    return flight.join(
        party,
        peer=peer,
        engine=engine or psi.EcdhEngine(),
        credentials=credentials,
        address=address,
        on="id",
        **{"timeout_s": 5, "wait_s": 2, **more},
    )


def raw_client(port, credentials=STATCAN, name="cbs"):
    return arrow_flight.FlightClient(
        f"grpc+tls://127.0.0.1:{port}",
        tls_root_certs=credentials.ca,
        cert_chain=credentials.certificate,
        private_key=credentials.key,
        override_hostname=name,
    )


# -- three processes -------------------------------------------------------------------------------


def test_three_processes_over_mutual_tls_answer_like_the_tables_in_clear():
    left, right = parties()
    run = processes.run(
        left,
        right,
        on=["id"],
        by=["cbs:size", "statcan:pref"],
        columns={"statcan": ["pref"], "cbs": ["size"]},
        timeout_s=120,
    )
    clear = left.frame.merge(right.frame, on="id").groupby(["size", "pref"]).size()
    assert run.table.set_index(["size", "pref"])["count"].to_dict() == clear.to_dict()
    assert run.cardinality == 200
    assert run.costs["process"].tolist() == ["statcan", "cbs", "linker"]


def test_a_party_that_is_killed_in_the_middle_is_noticed_and_ends_the_other(tmp_path):
    # The joining process is killed while it serves a slow RSA session.
    left, right = parties(1500)
    homes = {c.name: certificates.save(c, tmp_path / c.name) for c in (STATCAN, CBS)}
    for party in (left, right):
        party.frame.to_csv(tmp_path / f"{party.name}.csv", index=False)

    def arguments(command, party, peer):
        return [
            command,
            *("--data", str(tmp_path / f"{party.name}.csv")),
            *("--on", "id", "--peer", peer.name, "--engine", "rsa-3072", "--timeout", "60"),
        ]

    with processes.start("cbs", arguments("serve", right, left), homes["cbs"]) as second:
        port = second.wait_for("listening", 60)["port"]
        joins = [*arguments("join", left, right), "--connect", f"127.0.0.1:{port}"]
        with processes.start("statcan", joins, homes["statcan"]) as first:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not _connected(port):
                time.sleep(0.1)
            time.sleep(0.5)
            first.process.send_signal(signal.SIGKILL)
        assert second.process.wait(60) == 1
        assert second.last_words().endswith("left the session before it was over.")


def _connected(port):
    import psutil

    return any(
        c.raddr and c.raddr.port == port and c.status == "ESTABLISHED"
        for c in psutil.net_connections("tcp")
    )


def test_no_secret_is_an_argument_and_state_is_for_the_owner_only(tmp_path, monkeypatch):
    shown = subprocess.run(
        [sys.executable, "-m", "pet_lab.psi.commands", "join", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--key" not in shown
    assert "PET_LAB_CREDENTIALS" in shown
    home = certificates.save(STATCAN, tmp_path / "statcan")
    assert stat.S_IMODE((home / "key.pem").stat().st_mode) == 0o600
    assert certificates.load(home) == STATCAN
    monkeypatch.setenv("PET_LAB_CREDENTIALS", str(home))
    assert certificates.load(None).name == "statcan"
    assert STATCAN.key.decode() not in repr(STATCAN)


# -- sessions over Flight, both ends in this process -------------------------------------------


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


@pytest.mark.parametrize(
    "who",
    ["expired", "not yet valid", "other authority", "another name", "no certificate", "no tls"],
)
def test_whoever_lacks_the_right_certificate_is_turned_away(who):
    left, right = parties(30)
    served = Served(right, wait_s=3)
    stranger = {
        "expired": AUTHORITY.issue("statcan", days=-1),
        "not yet valid": AUTHORITY.issue("statcan", days=9, starts_in_days=5),
        "other authority": TestAuthority("other").issue("statcan"),
        "another name": ISTAT,
        "no certificate": None,
        "no tls": None,
    }[who]
    if stranger is not None:
        party = psi.Party(stranger.name, left.frame)
        with pytest.raises(psi.PsiError) as caught:
            join(party, served.address, credentials=stranger, timeout_s=3)
        said = str(caught.value)
        assert ("waits for another peer" in said) == (who == "another name")
        assert "Traceback" not in said
    else:
        scheme = "grpc+tls" if who == "no certificate" else "grpc+tcp"
        options = {"tls_root_certs": CBS.ca, "override_hostname": "cbs"} if who[-1] == "e" else {}
        client = arrow_flight.FlightClient(f"{scheme}://127.0.0.1:{served.port}", **options)
        with pytest.raises(arrow_flight.FlightUnavailableError):
            list(client.do_action(arrow_flight.Action("x", b"")))
    # The party still waits for its own peer, and serves it.
    assert join(left, served.address).cardinality == served.result().cardinality == 20


def test_a_server_of_another_name_or_with_an_expired_certificate_is_not_talked_to():
    left, right = parties(30)
    for credentials in (ISTAT, AUTHORITY.issue("cbs", days=-1)):
        party = psi.Party(credentials.name, right.frame)
        served = Served(party, credentials=credentials, wait_s=1.5)
        with pytest.raises(psi.PeerLost, match="No secure connection to cbs"):
            join(left, served.address)
        with pytest.raises(psi.PeerLost, match=r"did not come within 1\.5 s"):
            served.result()


def test_a_party_speaks_in_the_name_of_its_certificate_only():
    left, _ = parties(30)
    with pytest.raises(psi.PsiError, match="certificate is for istat, the party is statcan"):
        join(left, "127.0.0.1:1", credentials=ISTAT)
    with pytest.raises(psi.PsiError, match="An address is host:port"):
        join(left, "http://x")
    with pytest.raises(psi.PeerLost, match="Nobody answers at 127"):
        join(left, "127.0.0.1:1", wait_s=0.2)


def test_a_second_session_and_every_other_call_are_refused_in_one_sentence():
    left, right = parties(30)
    served = Served(right)
    client = raw_client(served.port)
    for call in (
        lambda: list(client.do_action(arrow_flight.Action("sign", b"\x05"))),
        lambda: list(client.list_flights()),
        lambda: list(client.list_actions()),
        lambda: client.get_flight_info(arrow_flight.FlightDescriptor.for_command(b"x")),
        lambda: client.do_get(arrow_flight.Ticket(b"x")).read_all(),
    ):
        with pytest.raises(arrow_flight.FlightServerError, match="no such call") as caught:
            call()
        assert "Traceback" not in str(caught.value)
    empty = client.get_schema(arrow_flight.FlightDescriptor.for_command(b"x"))
    assert len(empty.schema) == 0
    _, reader = client.do_exchange(arrow_flight.FlightDescriptor.for_command(b"other"))
    with pytest.raises(arrow_flight.FlightServerError, match="no such call"):
        reader.read_chunk()
    assert join(left, served.address).cardinality == 20
    with pytest.raises(
        psi.PsiError, match=r"under way or over|Nobody answers|No secure|left before"
    ):
        join(left, served.address, wait_s=0.2)
    served.result()


@pytest.mark.parametrize(
    "raw", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"PLAB" + bytes(40)], ids=repr
)
def test_rubbish_over_an_authenticated_channel_is_answered_with_one_sentence(raw, caplog):
    _, right = parties(30)
    caplog.set_level(logging.CRITICAL)
    served = Served(right)
    writer, reader = raw_client(served.port).do_exchange(
        arrow_flight.FlightDescriptor.for_command(flight.SESSION)
    )
    writer.write_metadata(raw)
    with pytest.raises((arrow_flight.FlightError, StopIteration)) as caught:
        [reader.read_chunk() for _ in range(10)]
    assert "Traceback" not in str(caught.value)
    with pytest.raises(psi.PsiError):
        served.result()


def test_silence_after_the_connection_is_ended_by_the_server():
    _, right = parties(30)
    served = Served(right, timeout_s=1)
    client = raw_client(served.port)
    writer, _reader = client.do_exchange(arrow_flight.FlightDescriptor.for_command(flight.SESSION))
    begun = time.monotonic()
    with pytest.raises(psi.PeerLost, match="statcan sent nothing for 1 s"):
        served.result()
    assert time.monotonic() - begun < 8
    with pytest.raises(arrow_flight.FlightServerError, match="left the session"):
        writer.close()


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
    served = Served(psi.Party("cbs", right.frame.assign(id=7)))
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
    server = flight.LinkerServer(Linker(("statcan", "cbs"), rules=OutputRules(min_cell=5)), LINKER)
    yield server, f"127.0.0.1:{server.port}", result, a, b
    server.stop()


def send(table, address, credentials):
    return flight.send_table(
        table, linker="linker", address=address, credentials=credentials, timeout_s=5, wait_s=1
    )


def test_tables_and_queries_over_tls(linked):
    _, address, result, a, b = linked
    asked = Query(session=result.left.session, group_by=("cbs:size", "statcan:pref"))
    more = {"linker": "linker", "address": address}
    with pytest.raises(psi.PsiError, match="linker refuses: No table of statcan and cbs is here"):
        flight.ask(asked, credentials=CBS, **more)
    assert send(a, address, STATCAN)[0] == -1
    with pytest.raises(psi.PeerLost, match="did not reach linker"):
        flight.wait_until_linked(result.left.session, credentials=CBS, wait_s=0.1, **more)
    assert send(b, address, CBS)[0] == 200
    flight.wait_until_linked(result.left.session, credentials=CBS, wait_s=5, **more)
    table = flight.ask(asked, credentials=CBS, **more).table(result.right.link_key)
    assert table["count"].sum() == 200


def test_the_linker_refuses_whoever_is_not_one_of_the_two(linked):
    _, address, result, a, _ = linked
    asked = Query(session=result.left.session, group_by=("statcan:pref",))
    with pytest.raises(psi.PsiError, match="serves statcan and cbs only"):
        flight.ask(asked, linker="linker", address=address, credentials=ISTAT)
    with pytest.raises(psi.PsiError, match="serves statcan and cbs only"):
        send(a, address, ISTAT)
    with pytest.raises(psi.PsiError, match="in its own name"):
        send(a, address, CBS)  # posting as the other party
    with pytest.raises(psi.PeerLost, match="No secure connection"):
        send(a, address, TestAuthority().issue("statcan"))


def test_a_linker_that_restarted_says_what_to_do(linked):
    server, address, result, a, b = linked
    send(a, address, STATCAN)
    server.stop()
    again = flight.LinkerServer(Linker(("statcan", "cbs")), LINKER)
    address = f"127.0.0.1:{again.port}"
    asked = Query(session=result.left.session, group_by=("statcan:pref",))
    with pytest.raises(psi.PsiError, match=r"No table of statcan and cbs is here .*; send it"):
        flight.ask(asked, linker="linker", address=address, credentials=CBS)
    assert send(a, address, STATCAN)[0] == -1
    assert send(b, address, CBS)[0] == 200
    again.stop()


def test_a_party_that_dies_while_uploading_can_upload_again(linked):
    server, address, _, a, _ = linked
    client = raw_client(server.port, STATCAN, "linker")
    writer, reader = client.do_exchange(arrow_flight.FlightDescriptor.for_command(flight.TABLE))
    line = flight._line(flight._ClientChannel(reader, writer, "linker"), "statcan", "linker", 5)
    line.send_frame("tokens", a.header(), 1)
    until(server._busy["statcan"].locked)
    with pytest.raises(psi.PsiError, match="already under way"):
        send(a, address, STATCAN)
    reader.cancel()
    client.close()
    until(lambda: not server._busy["statcan"].locked())
    assert send(a, address, STATCAN)[0] == -1


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff" * 100, b"[" * 9000, json.dumps({"session": 1}).encode()]
)
def test_hostile_queries_over_tls_are_refused_in_one_sentence(linked, body):
    server, *_ = linked
    client = raw_client(server.port, CBS, "linker")
    with pytest.raises(arrow_flight.FlightServerError) as caught:
        list(client.do_action(arrow_flight.Action(flight.QUERY, body)))
    assert "Traceback" not in str(caught.value)
    assert "internal error" not in str(caught.value)


def test_too_many_rows_are_refused_before_they_are_read(linked):
    server, address, _, a, _ = linked
    server._max_rows = 10
    with pytest.raises(psi.PsiError):
        send(a, address, STATCAN)
    assert not server.linker._waiting


# -- credentials -----------------------------------------------------------------------------------


def test_credentials_that_are_not_safe_or_not_there_are_refused(tmp_path, monkeypatch):
    home = certificates.save(CBS, tmp_path / "cbs")
    (home / "key.pem").chmod(0o644)
    with pytest.raises(psi.PsiError, match=r"Others may read key\.pem"):
        certificates.load(home)
    (home / "key.pem").chmod(0o600)
    (home / "cert.pem").write_text("none")
    with pytest.raises(psi.PsiError, match="not a certificate"):
        certificates.load(home)
    with pytest.raises(psi.PsiError, match=r"ca\.pem, cert\.pem and key\.pem"):
        certificates.load(tmp_path / "nowhere")
    monkeypatch.delenv("PET_LAB_CREDENTIALS", raising=False)
    with pytest.raises(psi.PsiError, match="set PET_LAB_CREDENTIALS"):
        certificates.load(None)
    with pytest.raises(psi.PsiError, match="small letters"):
        AUTHORITY.issue("../x")

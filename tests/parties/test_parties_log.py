"""The signed log: every way of rewriting it is noticed."""

import os

import pytest
from msgspec.structs import replace

from pet_lab.parties.errors import PartyError
from pet_lab.parties.log import SignedLog, Signer, read, verify, verify_signature


@pytest.fixture
def log(tmp_path):
    log = SignedLog(Signer("anne"), tmp_path / "log.jsonl")
    for i in range(4):
        log.add("approved", task=str(i))
    return log


def test_a_log_holds_and_survives_a_restart(log):
    verify(log.entries, "anne", log.signer.public, [log.head()])
    again = SignedLog(log.signer, log.path)
    assert again.entries == log.entries
    again.add("finished")
    verify(read(log.path), "anne", log.signer.public, [log.head(), again.head()])
    assert [e.body["task"] for e in again.of("approved")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda e: [e[0], replace(e[1], body={"task": "9"}), *e[2:]], "^Entry 1 .* was changed"),
        (lambda e: [e[0], *e[2:]], "entry 2 in place 1"),
        (lambda e: [e[0], e[2], e[1], e[3]], "entry 2 in place 1"),
        (lambda e: [e[0], replace(e[2], n=1), *e[3:]], "^Entry 1 .* does not follow"),
        (lambda e: [*e, replace(e[3], n=4)], "^Entry 4 .* does not follow"),
        (lambda e: e[1:], "entry 1 in place 0"),
        (lambda e: [e[0], replace(e[1], time="0"), *e[2:]], "^Entry 1 .* was changed"),
        (lambda e: [e[0], replace(e[1], kind="refused"), *e[2:]], "^Entry 1 .* was changed"),
        (lambda e: [e[0], replace(e[1], previous="0" * 64), *e[2:]], "^Entry 1 .* does not follow"),
    ],
    ids=[
        *("changed", "removed", "swapped", "renumbered", "repeated"),
        *("beheaded", "time", "kind", "previous"),
    ],
)
def test_a_rewritten_log_is_noticed_by_its_chain(log, tamper, reason):
    with pytest.raises(PartyError, match=reason):
        verify(tamper(log.entries), "anne", log.signer.public)


def test_a_cut_end_or_a_new_history_shows_only_against_a_witness(log):
    witness = log.head()
    verify(log.entries[:2], "anne", log.signer.public)
    with pytest.raises(PartyError, match="4: its end was cut off"):
        verify(log.entries[:2], "anne", log.signer.public, [witness])
    other = SignedLog(log.signer)
    for _ in range(5):
        other.add("approved", task="another")
    verify(other.entries, "anne", log.signer.public)
    with pytest.raises(PartyError, match="differs from what a witness saw at entry 4"):
        verify(other.entries, "anne", log.signer.public, [witness])
    with pytest.raises(PartyError, match="does not carry the keeper's signature"):
        verify(log.entries, "anne", log.signer.public, [replace(witness, n=3)])


def test_a_log_of_another_keeper_or_a_damaged_file_is_refused(log):
    with pytest.raises(PartyError, match=r"^Entry 0"):
        SignedLog(Signer("anne"), log.path)
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], lines[1].replace('"1"', '"7"'), *lines[2:]]) + "\n")
    with pytest.raises(PartyError, match=r"^Entry 1"):
        SignedLog(log.signer, log.path)
    log.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(PartyError, match="does not follow the start of a log of bert"):
        SignedLog(Signer("bert", log.signer.raw()), log.path)
    log.path.write_text("\n".join([*lines, '{"n": 4}']) + "\n")
    with pytest.raises(PartyError, match="Line 5 of the log is damaged"):
        read(log.path)


def test_a_torn_last_line_is_cut_off_and_that_is_said(log):
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + whole.splitlines()[-1][:40])
    again = SignedLog(log.signer, log.path)
    assert again.entries[:-1] == log.entries
    assert again.entries[-1].kind == "repaired"
    assert again.entries[-1].body == {"bytes_cut": 40}
    assert SignedLog(log.signer, log.path).entries == again.entries


def test_an_entry_is_on_the_disk_before_it_counts(log, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    log.add("approved", task="4")
    assert synced == [log.path.stat().st_size]


def test_a_head_of_another_party_is_no_witness(log):
    other = SignedLog(Signer("bert", log.signer.raw()))
    with pytest.raises(PartyError, match="does not carry the keeper's signature"):
        verify(log.entries, "anne", log.signer.public, [other.head()])


def test_a_signature_fits_one_key_and_one_message():
    signer = Signer("anne")
    signature = signer.sign(b"yes")
    assert verify_signature(signer.public, b"yes", signature)
    assert verify_signature(Signer("anne", signer.raw()).public, b"yes", signature)
    for public, message, text in (
        (Signer("anne").public, b"yes", signature),
        (signer.public, b"no", signature),
        (signer.public, b"yes", signature[2:]),
        (signer.public, b"yes", "not hex"),
        ("", b"yes", signature),
    ):
        assert not verify_signature(public, message, text)
    assert signer.raw().hex() not in repr(signer)

"""Every file that a party reads again, damaged in every way: one sentence, never a traceback."""

import io
import re

import msgspec
import numpy as np
import pytest

from pet_lab.federated import flower
from pet_lab.mpc import node
from pet_lab.parties import log
from pet_lab.parties.certificates import TestAuthority, load, save
from pet_lab.parties.errors import PartyError
from pet_lab.parties.launch import Process
from pet_lab.psi import commands
from pet_lab.psi.disclosure import QueryLog

DAMAGE = {
    "empty": b"",
    "cut off": None,  # half of what was there
    "not UTF-8": b"\xff\xfe\x80" * 20,
    "a list": b"[]\n",
    "a number": b"5\n",
    "another shape": b'{"a": 1}\n',
    "nested": b"[" * 100_000,
    "a zip": b"PK\x03\x04" + b"\x00" * 40,
    "no file": ...,
    "a folder": {},
}


def damage(path, how):
    whole, content = path.read_bytes(), DAMAGE[how]
    path.unlink()
    if content == {}:
        path.mkdir()
    elif content is not ...:
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        path.chmod(0o600)


@pytest.fixture
def home(tmp_path):
    """A folder with whatever a party keeps."""
    folder = save(TestAuthority().issue("pz"), tmp_path / "pz")
    signer = log.Signer("pz")
    (folder / "sign.key").write_bytes(signer.raw())
    (folder / "config.json").write_bytes(msgspec.json.encode(node.NodeConfig()))
    log.SignedLog(signer, folder / "audit.jsonl").add("started")
    QueryLog(folder / "queries.jsonl").add("a", "00", {}, "answered")
    data = io.BytesIO()
    np.savez(data, x=np.zeros((2, 3)), y=np.zeros(2, int))
    (folder / "data.npz").write_bytes(data.getvalue())
    for name in ("task.json", "state.bin", "paillier.key"):
        (folder / name).write_bytes(b'{"cut": "off"}')
    return folder


def office(folder):
    task = msgspec.structs.replace  # never reached: the arrays come first
    return flower._client(folder, task, "pz", flower.Client)


READERS = {
    "config.json": node.Console,
    "sign.key": node.Console,
    "audit.jsonl": node.Console,
    "queries.jsonl": lambda folder: QueryLog.open(folder / "queries.jsonl"),
    "task.json": flower.FederationTask.read,
    "data.npz": office,
    "state.bin": lambda folder: commands._unpack_state(folder / "state.bin"),
    "cert.pem": load,
    "key.pem": load,
    "ca.pem": load,
}
# A log that is not there, or empty, begins; what TLS alone can judge is told where it is used.
FINE = {("audit.jsonl", "no file"), ("audit.jsonl", "empty"), ("audit.jsonl", "cut off")}
FINE |= {("queries.jsonl", how) for how in ("no file", "empty", "cut off", "not UTF-8", "a zip")}
FINE |= {("audit.jsonl", how) for how in ("not UTF-8", "a zip", "nested")}  # no end of a line
FINE |= {("queries.jsonl", "nested")}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_sentence_that_says_what_to_do(home, name, how):
    damage(home / name, how)
    if (name, how) in FINE:
        READERS[name](home)
        return
    with pytest.raises(PartyError) as caught:
        READERS[name](home)
    said = str(caught.value)
    assert re.fullmatch(r"[^\n]{20,400}\.", said), said
    assert "; " in said, said


def test_an_empty_key_is_refused_and_not_replaced_by_a_fresh_one(home):
    (home / "sign.key").write_bytes(b"")
    with pytest.raises(PartyError, match=r"Expected the key of a log in sign\.key"):
        node.Console(home)


@pytest.mark.parametrize(
    ("module", "arguments", "name"),
    [("pet_lab.mpc.node", [], "config.json"), ("pet_lab.federated", ["server"], "task.json")],
)
def test_a_process_that_cannot_start_ends_with_the_sentence_alone(home, module, arguments, name):
    damage(home / name, "a list")
    with Process("pz", module, [*arguments, str(home)]) as process:
        process.popen.wait(60)
        said = process.last_words()
    assert re.fullmatch(rf"Expected [^.]+ in {name}, got something else \(.*\); restore .*\.", said)

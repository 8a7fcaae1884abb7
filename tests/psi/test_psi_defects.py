"""The defects of the published program, each a test that this one does not have it.

Where another file holds the whole test, the line here is the shortest form of it.
"""

import inspect
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from plain import elements_of
from typer.testing import CliRunner

from pet_lab import psi
from pet_lab.files import write_atomic
from pet_lab.parties import certificates
from pet_lab.parties.errors import PartyError
from pet_lab.psi import commands, elements, end_to_end, rsa_blind, tokens
from pet_lab.psi.disclosure import OutputRules
from pet_lab.psi.elements import bytes_of
from pet_lab.psi.engines import engine_named
from pet_lab.psi.linker import Linker
from pet_lab.psi.rsa_blind import RsaEngine


def sides(left, right):
    return [psi.DataHolder(n, pd.DataFrame({"id": ids})) for n, ids in (("a", left), ("b", right))]


def test_a_modulus_of_1024_bits_is_not_the_default():
    assert RsaEngine().bits == 3072
    with pytest.raises(psi.PsiError, match="got 1024"):
        RsaEngine(1024)
    with pytest.raises(psi.PsiError):
        engine_named("rsa-1024")


def test_a_header_row_is_not_an_element(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("IDKEY;AGE\nA1;20\nA2;30\n")
    party = psi.DataHolder("istat", commands._read(path, ";"))
    assert len(party.key_set("IDKEY")) == 2
    result = psi.intersect(psi.EcdhEngine(), *sides(["IDKEY", "x"], ["IDKEY", "y"]), on="id")
    assert result.cardinality == 1  # it is a key like any other if a file really holds it


@pytest.mark.parametrize("engine", [psi.EcdhEngine(), RsaEngine(2048)], ids=repr)
def test_tags_are_not_in_the_order_of_the_file(engine, monkeypatch):
    kind = "blinded" if engine.name == "ecdh" else "tags"
    orders = []
    for module in (psi.ecdh, rsa_blind):
        original = elements.secret_permutation

        def spy(n, original=original):
            orders.append(original(n))
            return orders[-1]

        monkeypatch.setattr(module, "secret_permutation", spy)
    ids = [str(i) for i in range(64)]
    result = psi.intersect(engine, *sides(ids, ids), on="id")
    assert len(elements_of(result.transcript, kind=kind, sender="b")) == 64
    assert orders
    # The chance that a random order of 64 is that of the file is 1 / 64!.
    assert all(o.tolist() != list(range(64)) for o in orders)


def test_nothing_is_signed_beyond_what_was_announced_and_nobody_else_is_served():
    class Greedy(psi.EcdhEngine):
        name, variants = "rsa", ("psi",)

        def parameters(self):
            return RsaEngine(2048).parameters()

        def speak(self, talk):
            talk.receive("blob", width=256, count=1 + rsa_blind.ROOTS)
            talk.send("blinded", np.full((9, 256), 5, dtype=np.uint8))
            talk.receive("signed", width=256, count=9)

    class Mixed(RsaEngine):
        def speak(self, talk):
            return Greedy().speak(talk) if talk.role == "initiator" else super().speak(talk)

    with pytest.raises(psi.MessageError, match="exactly 3 elements were to come, 9 are announced"):
        psi.intersect(Mixed(2048), *sides(["x", "y", "z"], ["x"]), on="id")


def test_a_raw_signature_does_not_confirm_a_guess_in_another_session():
    # Tags are bound to the session, so one session's tags confirm nothing in the next.
    seen = set()
    for _ in range(2):
        result = psi.intersect(RsaEngine(2048), *sides(["guess"], ["guess", "b"]), on="id")
        tags = set(elements_of(result.transcript, kind="tags", sender="b"))
        assert not tags & seen
        seen |= tags


def test_zero_minus_one_and_n_are_not_signed():
    n = (1 << 2047) + 5
    for bad in (0, 1, n - 1, n):
        rows = bytes_of([bad.to_bytes(256, "big")], 256)
        with pytest.raises(psi.MessageError, match="not between 2 and n - 2"):
            rsa_blind.check_blinded(rows, n)


def test_identity_comes_from_the_certificate_not_from_the_message():
    one = Linker(("a", "b"))
    result = psi.intersect(psi.EcdhEngine(), *sides(["x"], ["x"]), on="id")
    (table,) = tokens.tables_for_linkers(sides(["x"], ["x"])[0], result.left, on="id")
    with pytest.raises(psi.PsiError, match="in its own name"):
        one.accept(table, "b")


def test_equal_blocks_of_two_labels_do_not_show():
    # ECB would show the common first 16 bytes of two labels; SIV mixes all of them.
    cipher = tokens.ColumnCipher(bytes(range(32)))
    a, b = (
        cipher.encrypt("sixteen bytes ok" + x, party="p", column="c") for x in ("small", "large")
    )
    assert not {a[i : i + 16] for i in range(0, 48, 16)} & {b[i : i + 16] for i in range(0, 48, 16)}


def test_a_known_column_name_confirms_no_key():
    # The name is bound as associated data; what travels of it is clear text, and the key has 256
    # bits from X25519 and HKDF, so there is nothing of ten digits to try.
    result = psi.intersect(psi.EcdhEngine(), *sides(["x"], ["x"]), on="id")
    assert len(result.left.link_key) == 32
    assert result.left.link_key not in b"".join(m.payload for m in result.transcript)
    assert len(set(result.left.link_key)) > 8


def test_there_is_a_smallest_cell_by_default():
    assert OutputRules().min_cell == 10
    assert OutputRules().complementary


def test_duplicates_are_not_multiplied_in_every_cell():
    run = end_to_end.run(
        psi.DataHolder("statcan", pd.DataFrame({"id": ["k", "k"], "code": ["1", "3"]})),
        psi.DataHolder("cbs", pd.DataFrame({"id": ["k", "k"], "size": ["s", "l"]})),
        on=["id"],
        by=["cbs:size", "statcan:code"],
        columns={"statcan": ["code"], "cbs": ["size"]},
        min_cell=0,
    )
    assert run.table["count"].tolist() == [1, 1, 1, 1]


def test_leading_zeros_are_kept(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("id\n007\n7\nNA\n")
    party = psi.DataHolder("a", commands._read(path, ","))
    assert party.values("id") == ["007", "7", "NA"]
    result = psi.intersect(
        psi.EcdhEngine(), party, psi.DataHolder("b", pd.DataFrame({"id": ["7"]})), on="id"
    )
    assert result.keys == {"7"}


def test_no_option_takes_a_secret():
    # A key on the command line is in the history of the shell and in every list of processes.
    by_hand = {"folder", "names", "state", "log", "out", "data"}  # paths and plain names
    for command in commands.app.registered_commands:
        for name, parameter in inspect.signature(command.callback).parameters.items():
            kind = str(parameter.annotation)
            assert "bytes" not in kind
            assert not {"key", "secret", "password", "passphrase"} & set(name.split("_")), name
            assert name in by_hand or "Path" not in kind or name == "credentials", name


# -- the command line ------------------------------------------------------------------------------


def test_refusals_are_one_sentence_and_status_two(tmp_path):
    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "pet_lab.psi.commands", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/bin", "PET_LAB_CREDENTIALS": ""},
        )

    (tmp_path / "a.csv").write_text("id\nx\n")
    done = call(
        "join", "--data", str(tmp_path / "a.csv"), "--on", "id", "--peer", "cbs", "--connect", "h:1"
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "No credentials: name their folder, or set PET_LAB_CREDENTIALS."


def test_certificates_are_made_by_the_command(tmp_path):
    done = CliRunner().invoke(commands.app, ["certificates", str(tmp_path), "statcan", "cbs"])
    assert done.exit_code == 0, done.output
    assert certificates.load(tmp_path / "cbs").name == "cbs"


def refused(tmp_path, *arguments, status=2):
    """The one sentence with which a party command refuses."""
    certificates.save(certificates.TestAuthority().issue("statcan"), tmp_path / "home")
    (tmp_path / "a.csv").write_text("id\nx\n")
    home = {"PET_LAB_CREDENTIALS": str(tmp_path / "home")}
    done = CliRunner().invoke(commands.app, arguments, env=home)
    assert done.exit_code == status, done.output
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("certificates {0} cbs --days -1", "days is a number above 0, got -1"),
        ("certificates {0} ../cbs", "An identity is small letters"),
        ("demo --rows 2", "rows is a whole number of at least 3, got 2"),
        ("demo --engine magic", "Engines are ecdh"),
        ("linker --party a", "A linker serves two parties, got 1"),
        ("linker --party a --party b --min-cell -1", "min_cell is a whole number"),
        ("linker --party a --party b --listen here", "An address is host:port"),
        ("serve --data {0}/a.csv --on id --peer b --listen here", "An address is host:port"),
        ("join --data {0}/a.csv --on id --peer b --connect here", "An address is host:port"),
        ("join --data {0}/a.csv --on id --peer b", "--connect HOST:PORT"),
        ("join --data {0}/none.csv --on id --peer b --connect h:1", "none.csv"),
        ("join --data {0}/a.csv --on id --peer b --connect h:1 --timeout -1", "timeout"),
        ("join --data {0}/a.csv --on id --peer b --connect h:1 --delay -1", "delay"),
        ("join --data {0}/a.csv --on id --peer b --connect h:1 --variant all", "cannot answer all"),
        ("send --state {0}/none --data {0}/a.csv --linker b@h:1", "a session of serve or join"),
        ("query --state {0}/none --linker b@h:1 --by b:x", "a session of serve or join"),
    ],
)
def test_values_of_options_are_refused_in_one_sentence_with_status_two(tmp_path, words, said):
    assert said.format(tmp_path) in refused(tmp_path, *words.format(tmp_path).split())


def test_every_command_is_among_the_refusals():
    marks = test_values_of_options_are_refused_in_one_sentence_with_status_two.pytestmark
    tried = {words.split()[0] for words, _ in marks[0].args[1]}
    named = {c.name or c.callback.__name__ for c in commands.app.registered_commands}
    assert tried == named


def test_commands_say_what_they_expected(tmp_path):
    file = str(tmp_path / "a.csv")
    data = ["--data", file, "--on", "id", "--peer", "cbs", "--connect", "127.0.0.1:1"]
    count = [*data, "--variant", "cardinality", "--out", file]
    assert refused(tmp_path, "join", *count) == (
        "--out needs rows; cardinality returns only a count."
    )
    assert "The engine ecdh cannot answer all; it answers psi, cardinality" in refused(
        tmp_path, "join", *data, "--variant", "all"
    )
    assert "Engines are ecdh" in refused(tmp_path, "join", *data, "--engine", "plain")
    assert "nobody answers" in refused(tmp_path, "join", *data, "--wait", "0", status=1)
    assert "serves two parties, got 1" in refused(tmp_path, "linker", "--party", "a")
    assert "Expected a session of serve or join in" in refused(
        tmp_path, "query", "--state", file, "--linker", "l@h:1", "--by", "a:b"
    )


def test_the_rows_of_the_intersection_are_private_and_keep_what_was_handed_over(tmp_path):
    left = psi.DataHolder("a", pd.DataFrame({"id": ["x", "q", "y"], "size": ["s", "m", "l"]}))
    right = psi.DataHolder("b", pd.DataFrame({"id": ["y", "x"], "size": ["9", "7"]}))
    result = psi.intersect(
        psi.EcdhEngine(), left, right, on="id", variant="enrichment", right_columns=["size"]
    )
    rows = commands._common_rows(left, result.left, {"id": "id"})
    assert rows.values.tolist() == [["x", "s", "7"], ["y", "l", "9"]]
    assert rows.columns.tolist() == ["id", "size", "b:size"]
    rows = commands._common_rows(right, result.right, {"id": "id"})  # was handed nothing
    assert rows.values.tolist() == [["y", "9"], ["x", "7"]]


def test_an_engine_that_tells_one_side_only_is_refused_for_rows_and_linkers(tmp_path):
    file = str(tmp_path / "a.csv")
    data = ["--data", file, "--on", "id", "--peer", "cbs", "--engine", "openmined"]
    for more in (["--out", file], ["--linker", "l@h:1"]):
        assert "tells the party that joins only" in refused(tmp_path, "serve", *data, *more)


def test_a_kept_session_is_private_and_read_back(tmp_path):
    result = psi.intersect(psi.EcdhEngine(), *sides(["x", "y"], ["x"]), on="id")
    path = tmp_path / "state"
    write_atomic(path, commands._pack_state(result.left, ["id"]), secret=True)
    assert path.stat().st_mode & 0o077 == 0
    link, on = commands._unpack_state(path)
    assert on == ["id"]
    assert link.link_key == result.left.link_key
    assert link.rows.tolist() == result.left.rows.tolist()
    path.write_bytes(b"PK not one")
    with pytest.raises(PartyError, match="a session of serve or join"):
        commands._unpack_state(path)


# -- end to end -------------------------------------------------------------------


def test_end_to_end_in_one_process_totals_exactly():
    rng = np.random.default_rng(1)
    left = pd.DataFrame(
        {"id": [f"{i}" for i in range(90)], "value": rng.integers(1, 99, 90).astype(str)}
    )
    right = pd.DataFrame(
        {"id": [f"{i}" for i in range(30, 120)], "size": rng.choice(["s", "l"], 90)}
    )
    run = end_to_end.run(
        psi.DataHolder("statcan", left),
        psi.DataHolder("cbs", right),
        on=["id"],
        by=["cbs:size"],
        columns={"cbs": ["size"]},
        total="statcan:value",
        values={"statcan": ["value:2"]},
        min_cell=2,
    )
    joined = left.astype({"value": int}).merge(right, on="id")
    clear = 100 * joined.groupby("size")["value"].sum()
    assert run.table.set_index("size")["total"].to_dict() == clear.to_dict()
    assert run.costs["bytes_sent"].gt(0).all()

"""Every decoder of foreign bytes over valid inputs and their mutants; slow: guided by coverage."""

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import targets
from examples import ENTRY, LOG_ENTRIES, paillier_key

from pet_lab.mia.scores import read_scores
from pet_lab.paillier import CiphertextError, PaillierError, PrivateKey
from pet_lab.parties import log
from pet_lab.parties.errors import PartyError
from pet_lab.workbench import notebooks, published, runs
from pet_lab.workbench.errors import NotebookError, ParameterError

ROOT = Path(__file__).resolve().parents[2]
SEED, MUTANTS = 20240607, 300


@pytest.fixture(scope="module", autouse=True)
def files():
    yield
    targets.forget_files()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_decoder_reads_what_is_valid_and_refuses_the_rest(name):
    target = targets.TARGETS[name]
    seeds = target.seeds()
    assert sum(map(target, seeds)) >= 0.8 * len(seeds)  # some tables are there to be refused
    rng = random.Random(f"{SEED} {name}")
    refused, slowest = 0, 0.0
    for _ in range(MUTANTS):
        raw, start = targets.mutate(rng, rng.choice(seeds)), time.thread_time()
        refused += not target(raw)
        slowest = max(slowest, time.thread_time() - start)
    print(f"seed {SEED}: {refused} of {MUTANTS} mutants of {name} refused, slowest {slowest:.3f} s")
    assert refused > MUTANTS / 20
    assert slowest < 2


def test_a_target_notices_another_error():
    def read(raw):
        raise KeyError(raw)

    with pytest.raises(KeyError):
        targets.Target(read, (PartyError,), list)(b"x")


# --- what it found -------------------------------------------------------------------------------

DEEP = b"[" * 3000 + b"]" * 3000


@pytest.mark.parametrize("raw", [b'""', b'"";""\n""', b"\xc2\xa0"])
def test_a_table_of_empty_cells_is_an_empty_file(raw):
    assert not targets.TARGETS["table_reader"](raw)


@pytest.mark.parametrize("raw", [b"a,b\n1,%s\n2,3\n" % (b"9" * 5000), b"%s\nx\n" % (b"9" * 50_000)])
def test_a_cell_of_thousands_of_digits_costs_no_time_and_no_error(raw):
    start = time.thread_time()
    targets.TARGETS["table_reader"](raw)
    assert time.thread_time() - start < 1


def test_deep_nesting_in_a_log_is_a_damaged_line(tmp_path):
    path = tmp_path / "log.jsonl"
    for depth in (3000, 995, 992, 990, 985, 700):
        raw = msgspec.json.encode(ENTRY).replace(b'"0.5"', b"[" * depth + b"]" * depth)
        path.write_bytes(raw + b"\n")
        with pytest.raises(PartyError, match=r"damaged|nested too deep|changed after"):
            log.verify(log.read(path), "pp-1", targets.examples.SIGNER.public)
    queries = msgspec.json.encode(LOG_ENTRIES[3]).replace(b'["a:b"]', DEEP)
    assert not targets.TARGETS["query_log"](queries + b"\n")


@pytest.mark.parametrize("p", ["0x0", "[" * 3000])
def test_a_file_that_is_no_paillier_key_is_refused(p):
    with pytest.raises(PaillierError, match="no Paillier key of ours"):
        PrivateKey.from_secret_bytes(b'{"p": "%s", "q": "0x7", "base": "0x2"}' % p.encode())
    with pytest.raises(PaillierError, match="no Paillier key of ours"):
        PrivateKey.from_secret_bytes(b'{"p": %s}' % DEEP)


def test_a_ciphertext_has_one_form():
    raw = targets.examples.ciphertexts().to_bytes()
    key = paillier_key().public
    named = raw.replace(b"\xaaguard_bits", b"\xaaguard_bitz")  # skipped, where it was not refused
    for other in (named, raw.replace(b"\xaaguard_bits\x01", b"\xaaguard_bits\xcc\x01")):
        assert other != raw
        with pytest.raises(CiphertextError):
            key.read(other)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('id = "', f'x = {"9" * 5000}\nid = "'),
        ('id = "', f'x = {"[" * 2000}\nid = "'),
        ('id = "', 'id = "²'),
        ('= "0.', '= "sNaN'),
    ],
)
def test_printed_numbers_that_are_none_are_refused_or_named(tmp_path, before, after):
    text = (published.PACKAGED / "unece" / "3.2.toml").read_text(encoding="utf-8")
    path = tmp_path / "t.toml"
    path.write_text(text.replace(before, after, 1))
    if "²" in after:
        assert published.load(path)[0].id.startswith("²")
        return
    with pytest.raises(published.PublishedError):
        published.load(path)


def test_a_done_run_without_its_rows_is_interrupted(tmp_path):
    done = next(raw for raw in targets.run_records() if b'"done"' in raw)
    (tmp_path / runs.RECORD).write_bytes(done)
    assert runs.load(tmp_path).state == runs.INTERRUPTED
    (tmp_path / runs.RECORD).write_bytes(done.replace(b'{"seed":1', b'{"seed":' + DEEP))
    assert runs.load(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    ["n = {[]: 1}", f"n = {'-' * 9000}1", "n = 1\0", f"n = -0x{'f' * 5000}", f"n = {'[' * 3000}"],
)
def test_a_parameters_cell_that_python_chokes_on_is_refused(text):
    with pytest.raises(NotebookError):
        notebooks.parse_cell(text)


def test_a_deep_list_is_no_parameter():
    with pytest.raises(ParameterError, match="sizes"):
        notebooks.parse(targets.declared(), ["sizes=" + DEEP.decode()])


def test_scores_of_empty_cells_are_refused(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(b'""')
    with pytest.raises(ValueError, match="empty file"):
        read_scores(path)


# --- by coverage ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is for Linux on x86")
def test_no_target_breaks_within_a_minute(tmp_path):
    seconds = max(2, 60 // len(targets.TARGETS))
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={tmp_path}/", "-seed=7"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "all", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-4000:]
    assert done.stderr.count("Done ") == len(targets.TARGETS)

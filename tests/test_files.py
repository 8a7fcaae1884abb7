"""Files that are complete or absent, canonical JSON, durations."""

import errno
import json
import os
import sys

import pytest

from pet_lab import files


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "a.txt"
    files.write_atomic(path, b"old")

    def fail_in_the_middle():
        with files.replacing(path) as stream:
            stream.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    assert path.read_bytes() == b"old"
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_a_secret_is_for_its_owner_alone_from_the_first_byte(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"readable by all")
    path.chmod(0o644)
    with files.replacing(path, secret=True) as stream:
        assert os.fstat(stream.fileno()).st_mode & 0o777 == 0o600
        stream.write(b"secret")
    assert path.stat().st_mode & 0o777 == 0o600
    before = os.umask(0o022)
    try:
        files.write_atomic(tmp_path / "open", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o644


def test_json_is_written_as_it_reads_back(tmp_path):
    value = {"b": [1, 2.5, None], "a": "é"}
    files.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.canonical_json({"a": float("inf")})


def test_hashes_of_bytes_and_files_agree(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "x") == files.sha256(b"abc")
    assert files.sha256(b"abc").startswith("ba7816bf")


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "make the folder writable"), (5, "cannot")],
)
def test_an_os_error_becomes_one_sentence_with_the_fix(number, says):
    sentence = files.why(OSError(number, os.strerror(number)), "papermill_runs")
    assert says in sentence
    assert "papermill_runs" in sentence


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.21, "4.2 s"),
        (59, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds, text):
    assert files.duration(seconds) == text

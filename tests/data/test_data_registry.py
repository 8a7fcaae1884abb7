"""Finding, checking, fetching and importing registered data."""

import functools
import http.server
import socket
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pet_lab import data, files
from pet_lab.data import canonical, hapt, registry, student

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "data" / "student_mat_stand_in.csv"


@pytest.fixture
def known(monkeypatch):
    """The registry with the shipped table as the registered content: no real data needed."""

    def register(**changes):
        table = canonical.parse_csv(STAND_IN.read_bytes())
        entry = replace(data.REGISTRY["student_mat"], sha256=table.sha256, **changes)
        monkeypatch.setattr(registry, "REGISTRY", {**data.REGISTRY, "student_mat": entry})
        monkeypatch.setattr(student, "pin", table.pin)
        return entry

    return register


@pytest.fixture
def served(tmp_path):
    """A folder served on loopback."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def nested_zip(path, content):
    inner = path.with_name("student.zip")
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("some/folder/student-mat.csv", content)
        archive.writestr("student-por.csv", b"x\n1\n")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "student.zip")
    inner.unlink()


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- the real thing --------------------------------------------------------------------------


def test_real_student_table(real_data, monkeypatch):
    monkeypatch.setenv("PET_LAB_DATA", str(real_data))
    dataset = data.load("student_mat")
    assert dataset.frame.shape == (395, 33)
    assert dataset.counts
    encoded = data.encode(dataset.frame, target="G3>=10")
    assert encoded.X.shape == (395, 58)
    assert encoded.X.dtype == "float64"
    assert encoded.y.sum() == 265
    assert data.fingerprint("student_mat") == dataset.provenance["sha256"]
    domain = data.student.DOMAIN
    assert tuple(domain) == tuple(dataset.frame.columns)
    assert all(set(dataset.frame[c]) <= set(domain[c]) for c in domain)


def test_real_student_table_in_other_clothes(real_data, tmp_path):
    content = (real_data / "student-mat.csv").read_bytes()
    other = tmp_path / "renamed.txt"
    other.write_bytes(b"\xef\xbb\xbf" + content.replace(b'"', b"").replace(b"\n", b"\r\n"))
    assert data.import_file(other) == "student_mat"
    assert data.verify("student_mat").ok
    changed = tmp_path / "changed.csv"
    changed.write_bytes(content.replace(b'"GP";"F";17', b'"GP";"M";17', 1))
    with pytest.raises(data.DataMismatch, match="row 2; the column that differs is sex"):
        data.load("student_mat", path=changed)


def test_real_hapt_signals(real_data, monkeypatch):
    if not (real_data / "hapt_raw.zip").is_file():
        pytest.skip("no hapt_raw.zip beside student-mat.csv")
    monkeypatch.setenv("PET_LAB_DATA", str(real_data))
    first = data.load("hapt").frame
    again = data.load("hapt").frame  # from the cache
    assert first.equals(again)
    assert first.groupby("experiment").ngroups == 61
    assert first["user"].nunique() == 30
    assert len(first) == data.REGISTRY["hapt"].rows
    # The first line of labels.txt: experiment 1, user 1, STANDING in samples 250 to 1232.
    one = first[first["experiment"] == 1].set_index("sample")["activity"]
    assert list(one.loc[[248, 249, 1231]]) == [0, 5, 5]


# --- stand-in and absence --------------------------------------------------------------------


def test_stand_in_is_what_the_readme_says():
    dataset = data.load("student_mat", stand_in=True)
    assert dataset.provenance["kind"] == "stand-in"
    assert not dataset.counts
    assert dataset.provenance["sha256"] in (ROOT / "data" / "README.md").read_text("utf-8")
    assert dataset.frame.shape == (395, 33)
    assert data.encode(dataset.frame, target="G3>=10").X.shape == (395, 58)
    domain = data.student.DOMAIN
    assert all(set(dataset.frame[c]) <= set(domain[c]) for c in domain)
    assert data.fingerprint("student_mat") == dataset.provenance["sha256"]
    assert data.fingerprint("student_mat", stand_in=False) is None


def test_readme_names_the_registered_hashes():
    text = (ROOT / "data" / "README.md").read_text("utf-8")
    assert all(e.sha256 in text and e.licence in text for e in data.REGISTRY.values())


def test_absent_data_says_what_to_get_and_how():
    with pytest.raises(data.DataMissing) as caught:
        data.load("student_mat")
    entry = data.REGISTRY["student_mat"]
    for part in (entry.file, entry.sha256, entry.address, "pet-lab data import FILE"):
        assert part in str(caught.value)
    with pytest.raises(data.DataMissing):
        data.load("hapt", stand_in=True)
    with pytest.raises(data.DataMissing, match=r"no file nowhere\.csv"):
        data.load("student_mat", path="nowhere.csv", stand_in=True)
    assert data.verify("student_mat").where == "absent"


def test_unknown_name_lists_the_known():
    with pytest.raises(data.DataError, match="student_mat, hapt"):
        data.load("students")


def test_without_network_the_stand_in_comes_fast(known, monkeypatch):
    monkeypatch.delenv("PET_LAB_OFFLINE")
    known(address=f"http://127.0.0.1:{closed_port()}/x.zip")
    started = time.perf_counter()
    assert data.load("student_mat", stand_in=True).provenance["kind"] == "stand-in"
    assert time.perf_counter() - started < 5
    # The failure is remembered: the next impatient call does not even try ...
    monkeypatch.setattr(registry, "_reachable", lambda address: pytest.fail("tried again"))
    data.load("student_mat", stand_in=True)
    # ... but whoever asks for the real data gets a real attempt.
    monkeypatch.setattr(registry, "_reachable", lambda address: "still nothing")
    with pytest.raises(data.DataMissing, match="still nothing"):
        data.fetch("student_mat")


# --- download --------------------------------------------------------------------------------


def test_download_of_a_zip_in_a_zip(known, served, monkeypatch):
    folder, address = served
    monkeypatch.delenv("PET_LAB_OFFLINE")
    known(address=f"{address}/student+performance.zip")
    nested_zip(folder / "student+performance.zip", STAND_IN.read_bytes())
    dataset = data.load("student_mat")
    assert dataset.provenance["kind"] == "real"
    monkeypatch.setenv("PET_LAB_OFFLINE", "1")
    assert data.load("student_mat").frame.equals(dataset.frame)  # now from the cache
    assert data.fetch("student_mat").parent == data.cache_dir()
    assert data.listing()[0]["state"] == "cache"


@pytest.mark.parametrize("damage", ["cut", "garbage", "changed", "nothing inside"])
def test_a_damaged_download_never_enters_the_cache(known, served, monkeypatch, damage):
    folder, address = served
    monkeypatch.delenv("PET_LAB_OFFLINE")
    known(address=f"{address}/x.zip")
    file = folder / "x.zip"
    if damage == "garbage":
        file.write_bytes(b"<html>moved</html>")
    elif damage == "nothing inside":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("readme.txt", "hello")
    else:
        content = STAND_IN.read_bytes()
        nested_zip(file, content.replace(b"GP", b"MS", 1) if damage == "changed" else content)
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(data.DataMismatch, match=r"damaged or has changed and was discarded") as e:
        data.fetch("student_mat")
    assert ("row 1" in str(e.value)) == (damage == "changed")
    assert not (data.cache_dir() / "student-mat.csv").exists()
    # Wrong is not absent: the stand-in does not paper over it.
    with pytest.raises(data.DataMismatch):
        data.load("student_mat", stand_in=True)


def test_a_missing_page_is_absence(known, served, monkeypatch):
    _, address = served
    monkeypatch.delenv("PET_LAB_OFFLINE")
    known(address=f"{address}/gone.zip")
    with pytest.raises(data.DataMissing, match="HTTPError"):
        data.fetch("student_mat")


# --- folders, imports, hashes ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["student-mat.csv", "student+performance.zip", "student"])
def test_data_folder_may_hold_file_zip_or_folder(known, tmp_path, monkeypatch, form):
    known()
    place = tmp_path / "mine" / form
    place.parent.mkdir()
    if form.endswith(".zip"):
        nested_zip(place, STAND_IN.read_bytes())
    elif form == "student":
        place.mkdir()
        (place / "student-mat.csv").write_bytes(STAND_IN.read_bytes())
    else:
        place.write_bytes(STAND_IN.read_bytes())
    monkeypatch.setenv("PET_LAB_DATA", str(place.parent))
    assert data.load("student_mat").frame.shape == (395, 33)
    found = data.verify("student_mat")
    assert (found.ok, found.where) == (True, "PET_LAB_DATA")


def test_wrong_file_in_the_data_folder_is_an_error_even_with_a_stand_in(
    known, tmp_path, monkeypatch
):
    known()
    wrong = STAND_IN.read_bytes().replace(b"GP", b"MS", 1)
    (tmp_path / "student-mat.csv").write_bytes(wrong)
    monkeypatch.setenv("PET_LAB_DATA", str(tmp_path))
    with pytest.raises(data.DataMismatch, match="row 1"):
        data.load("student_mat", stand_in=True)
    found = data.verify("student_mat")
    assert not found.ok
    assert found.problems
    assert data.listing()[0]["ok"] is False
    assert data.fingerprint("student_mat") == found.sha256


def test_import_refuses_what_it_does_not_know(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(data.DataMismatch, match="missing columns: school") as caught:
        data.import_file(other, "student_mat")
    assert "1 rows instead of 395" in str(caught.value)
    with pytest.raises(data.DataMismatch, match="hapt"):
        data.import_file(other)
    with pytest.raises(data.DataMissing):
        data.import_file(tmp_path / "absent.csv")


def test_fingerprint_follows_the_file_and_is_cheap(tmp_path, monkeypatch):
    own = tmp_path / "own.csv"
    own.write_text("a,b\n1,2\n")
    first = data.fingerprint(own)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: pytest.fail("read again"))
        assert data.fingerprint(own) == first
    own.write_text("a,b\n1,3,\n")
    assert data.fingerprint(own) != first
    assert data.fingerprint(tmp_path / "absent.csv") is None


def test_a_cache_that_cannot_be_written_does_no_harm(known, tmp_path, monkeypatch):
    known()
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("PET_LAB_CACHE", str(blocker / "cache"))
    assert data.load("student_mat", path=STAND_IN).frame.shape == (395, 33)
    assert data.load("student_mat", stand_in=True).provenance["kind"] == "stand-in"
    assert data.fingerprint("student_mat") is not None


# --- HAPT in miniature -----------------------------------------------------------------------


def tiny_hapt(**changes):
    files = {
        "acc_exp01_user01.txt": b"0.5 -0.25 1\n0 0 0\n1 2 3\n",
        "gyro_exp01_user01.txt": b"1 1 1\n2 2 2\n3 3 3\n",
        "labels.txt": b"1 1 5 2 3\n",
        "activity_labels.txt": b"5 STANDING\n",
    }
    return {**files, **{k: v for k, v in changes.items() if v is not None}}


def test_hapt_frame_and_hash():
    recordings = hapt.read(tiny_hapt())
    frame = recordings.frame()
    assert list(frame["activity"]) == [0, 5, 5]
    assert list(frame["acc_x"]) == [0.5, 0.0, 1.0]
    assert list(frame["gyro_z"]) == [1.0, 2.0, 3.0]
    windows = {k: b"\xef\xbb\xbf" + v.replace(b"\n", b"\r\n") for k, v in tiny_hapt().items()}
    respelled = windows | {"acc_exp01_user01.txt": b"5e-1 -.25 1.0\n-0 0 0\n1 2 3"}
    assert hapt.read(windows).sha256 == recordings.sha256
    assert hapt.read(respelled).sha256 == recordings.sha256
    moved = tiny_hapt() | {"labels.txt": b"1 1 5 1 3\n"}
    assert hapt.read(moved).sha256 != recordings.sha256
    want = {name: list(digest) for name, digest in recordings.digests.items()}
    assert hapt.differences(recordings, want) == []
    assert hapt.differences(hapt.read(moved), want) == ["labels.txt differs"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("acc_exp01_user01.txt", b"1 2\n", "3 numbers a row"),
        ("acc_exp01_user01.txt", b"1 2 x\n", "other characters"),
        ("gyro_exp01_user01.txt", b"1 1 1\n", "as many samples"),
        ("gyro_exp02_user01.txt", b"1 1 1\n", "acc_exp02_user01.txt beside"),
        ("labels.txt", b"", "5 numbers a row"),
    ],
)
def test_hapt_damage_is_named(name, content, said):
    with pytest.raises(data.DataError, match=said):
        hapt.read(tiny_hapt() | {name: content})


def test_hapt_needs_all_its_parts():
    with pytest.raises(data.DataError, match=r"labels\.txt"):
        hapt.read({"acc_exp01_user01.txt": b"1 2 3\n"})


def test_the_annex_files_have_fingerprints_too(tmp_path, monkeypatch):
    from pet_lab.data import istat_bi

    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(istat_bi, "default_folder", lambda: None)
    assert data.fingerprint("istat_bi/bank") is None
    monkeypatch.setattr(istat_bi, "default_folder", lambda: tmp_path)
    (tmp_path / istat_bi.FILES["bank"]).write_text("a;b\n")
    assert data.fingerprint("istat_bi/bank") == files.sha256(b"a;b\n")
    assert data.fingerprint("istat_bi/istat") is None

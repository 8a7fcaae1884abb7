"""Processes: ready lines, last words, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pet_lab.parties.errors import PeerLost
from pet_lab.parties.launch import Process, stop_all

CHILD = """
import json, os, subprocess, sys, time
def say(**event): print(json.dumps(event), flush=True)
task = sys.argv[1]
print("not an event", flush=True)
if task == "fail":
    print("E0000 something went wrong.", file=sys.stderr)
    sys.exit(3)
if task == "grandchild":
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    say(event="listening", port=1, pid=os.getpid(), grandchild=other.pid)
else:
    say(event="listening", port=1, pid=os.getpid(), secret=os.environ.get("HOME_OF_KEYS", ""))
for line in sys.stdin:
    say(event="echo", **json.loads(line))
time.sleep(60 if task == "stubborn" else 0)
"""


@pytest.fixture
def module(tmp_path):
    (tmp_path / "child_of_test.py").write_text(CHILD)
    return {
        "module": "child_of_test",
        "cwd": Path.cwd(),
        "environment": {"PYTHONPATH": str(tmp_path)},
    }


def gone(pid, within=5.0):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_process_reports_answers_its_console_and_ends(module):
    with Process("anne", arguments=["echo"], **module) as child:
        assert child.wait_for("listening", 20)["port"] == 1
        child.write({"number": 5})
        assert child.read(5) == {"event": "echo", "number": 5}
        pid = child.popen.pid
    assert gone(pid)
    with pytest.raises(PeerLost, match="anne"):
        child.write({})


def test_the_last_words_of_a_process_that_fails_are_the_error(module):
    with Process("anne", arguments=["fail"], **module) as child:
        with pytest.raises(PeerLost, match="something went wrong") as caught:
            child.wait_for("listening", 20)
        assert caught.value.party == "anne"
        with (
            Process("bert", arguments=["echo"], **module) as other,
            pytest.raises(PeerLost, match="something went wrong"),
        ):
            other.wait_for("session", 20, partner=child)


def test_a_process_that_is_silent_is_given_up(module):
    with Process("anne", arguments=["echo"], **module) as child:
        child.wait_for("listening", 20)
        begun = time.monotonic()
        with pytest.raises(PeerLost, match=r"reported nothing within 0\.3 s"):
            child.read(0.3)
        with pytest.raises(PeerLost, match=r"did not report 'session' within 0\.3 s"):
            child.wait_for("session", 0.3)
        assert time.monotonic() - begun < 3


def test_stopping_kills_children_of_children_and_the_stubborn(module):
    children = [
        Process(n, arguments=[t], **module) for n, t in (("a", "grandchild"), ("b", "stubborn"))
    ]
    pids = [children[0].wait_for("listening", 20)["grandchild"]]
    children[1].wait_for("listening", 20)
    pids += [c.popen.pid for c in children]
    stop_all(children, grace_s=0.5)
    assert all(gone(pid) for pid in pids)


@pytest.mark.slow
def test_neither_process_nor_keys_outlive_a_parent_that_is_killed(module, tmp_path):
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "key.pem").write_text("secret")
    program = (
        "import sys, time; from pathlib import Path; from pet_lab.parties.launch import Process\n"
        f"child = Process('a', 'child_of_test', ['grandchild'], cwd=Path.cwd(), "
        f"remove=Path({str(keys)!r}))\n"
        "ready = child.wait_for('listening', 20)\n"
        "print(ready['pid'], ready['grandchild'], flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **module["environment"]},
    )
    pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert keys.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert all(gone(pid) for pid in pids)
    assert not keys.exists()

"""Sessions and a linker under random faults: the intersection or a refusal, and no more leaves."""

import random

import pytest
import simulated_psi as psi
from simulated import Violation, search, shrink

from pet_lab.psi import commands
from pet_lab.psi.linker import Linker


@pytest.fixture
def play(monkeypatch, folder):
    with psi.standing_in(monkeypatch) as playing:
        yield lambda schedule, linker_type=Linker: playing(folder / "psi", schedule, linker_type)


def told(world, event):
    return [e for e in world.events if e["event"] == event]


def test_without_faults_both_sides_are_answered(play):
    world = play([("run", 0.0, 0, 0)])
    assert len(told(world, "session")) == len(told(world, "answer")) == 2
    assert not world.refusals


def test_without_faults_a_second_session_of_nearly_the_same_files_is_refused(play):
    world = play([("run", 0.0, 0, 0), ("run", 300.0, 1, 0)])
    assert (len(told(world, "session")), len(told(world, "answer"))) == (4, 2)


def run(play, seeds):
    outcomes = [
        (len(told(w, "session")), len(told(w, "answer")), w.refusals, len(w.sent))
        for w in search(psi.draw, play, seeds)
    ]
    sessions, answers, refusals, frames = (sum(column) for column in zip(*outcomes, strict=True))
    print(
        f"seeds {seeds}: {sessions} outcomes, {answers} answers, {refusals} refusals, "
        f"{frames} frames, no violation"
    )
    assert sessions > len(seeds)
    assert answers > len(seeds) / 3


def test_hundreds_of_schedules(play):
    run(play, range(100))


@pytest.mark.slow
def test_many_schedules(play, schedules):
    run(play, range(1000, 1000 + schedules))


# --- what the search is for, and what was wrong ---------------------------------------------------

FULL_DISK = [
    ("noise",),
    ("run", 0.0, 0, 0),
    ("full", "linker", 1),
    ("ask", 300.0, "left", 0, 1),
    ("ask", 310.0, "right", 0, 0),
]


def test_noise_that_could_not_be_charged_is_not_given_later_for_nothing(play):
    """The answer was remembered before it was logged, and free when it was asked for again."""
    assert play(FULL_DISK).released


# --- the search can fail: planted bugs ------------------------------------------------------------


class ForgetsHistory(Linker):
    """A linker that starts with an empty history and appends to the log."""

    def __init__(self, parties, *, rules, log):
        super().__init__(parties, rules=rules, log=type(log)(log.path))


def test_a_history_that_is_lost_at_a_restart_is_found(play):
    for seed in range(400):
        schedule = psi.draw(random.Random(seed))
        try:
            play(schedule, ForgetsHistory)
        except Violation:
            steps = shrink(schedule, lambda s: play(s, ForgetsHistory))
            print(f"seed {seed}: {len(schedule)} steps, shrunk to {steps}")
            assert len(steps) <= 10
            with pytest.raises(Violation, match=r"left|allowed"):
                play(steps, ForgetsHistory)
            return
    raise AssertionError("The bug was not found.")


def test_an_out_file_written_in_place_is_found(play, monkeypatch):
    def in_place(path, data, *, secret):
        path.write_bytes(data[: len(data) // 2])
        psi.os.fsync(0)
        path.write_bytes(data)

    monkeypatch.setattr(commands, "write_atomic", in_place)
    with pytest.raises(Violation, match="holds what is not the intersection"):
        play([("run", 0.0, 0, 0)])

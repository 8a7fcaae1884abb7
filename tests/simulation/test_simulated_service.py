"""The service under random faults: what must never leave, does not, and the check can fail."""

import random

import pytest
import simulated_service as service
from simulated import Violation, search, shrink

from pet_lab.mpc import owner, processor
from pet_lab.parties.errors import Refused


@pytest.fixture
def play(monkeypatch, folder):
    with service.standing_in(monkeypatch) as playing:
        yield lambda schedule, kind=service.SimulatedParty: playing(
            folder / "world", kind, schedule
        )


def test_without_faults_every_question_within_the_budget_is_answered(play):
    asked = [("ask", 100.0 * i, "pz", 3) for i in range(4)]
    assert play(asked)[0] == 3


def run(play, seeds):
    outcomes = search(service.draw, play, seeds)
    answered, messages = (sum(column) for column in zip(*outcomes, strict=True))
    print(f"seeds {seeds}: {answered} tables, {messages} messages, no violation")
    assert answered > len(seeds) / 3  # not so many faults that nothing ever happens


def test_hundreds_of_schedules(play):
    run(play, range(300))


@pytest.mark.slow
def test_many_schedules(play, schedules):
    run(play, range(1000, 1000 + schedules))


# --- the search can fail: planted bugs ------------------------------------------------------------


class ForgetsToReserve(service.SimulatedParty):
    """An owner that charges a task when it hands in, and believes that it checked before."""

    def _within_limits(self, task):
        mine, self._prepared = self._prepared, {}
        if not any(d.commitments[0] for d in task.inputs):  # a draft: before handing in
            super()._within_limits(task)
        self._prepared = mine


class AnswersAgain(service.SimulatedParty):
    """A processing party that forgets that it answered."""

    async def _finish(self, peer, request):
        self._current(peer, request.task).finished = False
        return await super()._finish(peer, request)


def first_shrunk(play, within):
    """The first seed with a violation, and what is left of its schedule."""
    for seed in range(within):
        schedule = service.draw(random.Random(seed))
        try:
            play(schedule)
        except Violation:
            steps = shrink(schedule, play)
            print(f"seed {seed}: {len(schedule)} steps, shrunk to {steps}")
            with pytest.raises(Violation) as caught:
                play(steps)
            return steps, str(caught.value)
    raise AssertionError(f"The bug was not found in {within} schedules.")


def test_a_budget_that_is_not_reserved_is_found(play):
    steps, why = first_shrunk(lambda schedule: play(schedule, ForgetsToReserve), 400)
    assert "1 are allowed" in why
    assert len(steps) <= 10


def test_an_approval_that_counts_twice_is_found(play, monkeypatch):
    def counts(task, approvals, publics):
        if len(approvals) < task.k:
            raise Refused("too few")

    for module in (owner, processor):
        monkeypatch.setattr(module, "check_approvals", counts)
    steps, why = first_shrunk(play, 400)
    assert "did not approve" in why
    assert len(steps) <= 10


def test_a_second_answer_with_fresh_noise_is_found(play):
    steps, why = first_shrunk(lambda schedule: play(schedule, AnswersAgain), 400)
    assert "2 answers to one task" in why
    assert len(steps) <= 10

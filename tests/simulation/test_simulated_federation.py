"""Federated rounds under random faults: a sum is that of whom it names, or there is none."""

import random

import pytest
import simulated_federation as federation
from simulated import Violation, search, shrink
from simulated_federation import Averaging, Masking

from pet_lab.federated.masking import MaskingOffice, MaskingServer
from pet_lab.federated.rounds import Aggregator

WORLDS = {"masking": Masking, "averaging": Averaging}


@pytest.fixture(params=WORLDS)
def world(request):
    return WORLDS[request.param]


def test_without_faults_every_round_gives_its_sum(world):
    played = federation.play(world([]))
    assert (played.sums, played.void) == (len(played.trips) // (4 if world is Masking else 2), 0)


def run(world, seeds):
    outcomes = search(federation.draw, lambda s: federation.play(world(s)), seeds)
    sums, void, messages = (
        sum(numbers)
        for numbers in zip(*((o.sums, o.void, o.network.count) for o in outcomes), strict=True)
    )
    print(f"seeds {seeds}: {sums} sums, {void} void rounds, {messages} messages, no violation")
    assert sums > len(seeds) / 2
    assert void


def test_hundreds_of_schedules(world):
    run(world, range(200))


@pytest.mark.slow
def test_many_schedules(world, schedules):
    run(world, range(1000, 1000 + schedules))


# --- what the search found, and what was wrong --------------------------------------------------


def test_an_office_that_leaves_before_it_shares_voids_no_round():
    """The server asked everybody's shares of a secret that nobody had shared."""
    assert federation.play(Masking([("drop answer", 6)])).void == 0


def test_a_vector_after_the_list_of_survivors_does_not_count():
    """It was added, and the shares of its office's key were taken for its seed."""
    played = federation.play(Masking([("drop", 16), ("delay", 10, 11.0)]))
    assert (played.sums, played.void) == (2, 0)


# --- the search can fail: planted bugs ------------------------------------------------------------


class TakesLateVectors(MaskingServer):
    """A server whose list of survivors is whoever has sent a vector by now."""

    def vector(self, office, raw):
        self._survivors = ()
        super().vector(office, raw)


class RevealsAgain(MaskingOffice):
    """An office that answers as often as it is asked who survived."""

    def reveal(self, survivors):
        self._answered = False
        return super().reveal(survivors)


class CountsTwice(Aggregator):
    """An aggregator that adds whatever came."""

    def combine(self, number, updates):
        model = super().combine(number, updates)
        total = self.scheme.add([u.message for u in updates])
        return type(model)(total, sum(self.shares[u.office] for u in updates))


PLANTED = {
    "late": (lambda s: Masking(s, server_type=TakesLateVectors), "that of", 240),
    "again": (lambda s: Masking(s, office_type=RevealsAgain), "Both secrets of office", 0),
    "twice": (lambda s: Averaging(s, server_type=CountsTwice), "is not that of", 0),
}
"""World, words of the violation, and the seed to begin at: the first finds nothing for long."""


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_and_shrinks(bug):
    make, words, first = PLANTED[bug]

    def play(schedule):
        return federation.play(make(schedule))

    for seed in range(first, first + 400):
        schedule = federation.draw(random.Random(seed))
        try:
            play(schedule)
        except Violation:
            steps = shrink(schedule, play)
            print(f"seed {seed}: {len(schedule)} steps, shrunk to {steps}")
            assert len(steps) <= 10
            with pytest.raises(Violation, match=words):
                play(steps)
            return
    raise AssertionError("The bug was not found.")

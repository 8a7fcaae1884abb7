"""The same rounds through Flower: equal to the loop, in process and between processes over TLS."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from pet_lab import federated as fl
from pet_lab.federated import flower

pytest.importorskip("flwr", reason="Flower is in the extra 'fl'")


def run(transport, offices, network, training, scheme, **more):
    return transport(offices, network, training, scheme, **({"rounds": 2, "seed": 5} | more))


@pytest.mark.parametrize("server_starts", [False, True])
def test_flower_in_process_gives_the_model_of_the_loop(
    offices, network, training, encrypted, server_starts
):
    for scheme in (fl.Plain(network.parameters), encrypted):
        a = run(fl.simulate, offices, network, training, scheme, server_starts=server_starts)
        b = run(flower.in_process, offices, network, training, scheme, server_starts=server_starts)
        assert np.array_equal(a.weights, b.weights)
        assert a.evaluations == b.evaluations


def test_a_bad_office_and_a_slow_one_are_left_out_in_process(offices, network, training):
    def nan(number, received, weights):
        return weights * np.nan

    def slow(number, received, weights):
        time.sleep(1.5 if number == 1 else 0)
        return weights

    history = run(
        flower.in_process,
        offices,
        network,
        training,
        fl.Plain(network.parameters),
        transform={"cbs": nan, "ons": slow},
        timeout_s=1.0,
    )
    out = {(r, o): why for r, o, why in history.left_out}
    assert set(out) == {(1, "cbs"), (2, "cbs"), (1, "ons")}
    assert "only finite" in out[1, "cbs"]
    assert "after the 1 s" in out[1, "ons"]


def test_a_void_round_ends_the_training(offices, network, training):
    def wrong(number, received, weights):
        return weights[:-1]

    with pytest.raises(fl.RoundVoid, match="1 usable"):
        run(
            flower.in_process,
            offices,
            network,
            training,
            fl.Plain(network.parameters),
            transform={o.name: wrong for o in offices[1:]},
        )


def test_five_processes_over_tls_give_the_model_of_the_loop(offices, network, training, encrypted):
    a = run(fl.simulate, offices, network, training, encrypted)
    b = run(flower.processes, offices, network, training, encrypted)
    assert b.left_out == ()
    assert np.array_equal(a.weights, b.weights)
    assert a.evaluations == b.evaluations


def test_dying_sleeping_and_uninvited_offices_do_not_stop_the_others(
    offices, network, training, encrypted
):
    """One process dies, one brings a certificate of another authority, one sends NaN once."""
    history = run(
        flower.processes,
        offices,
        network,
        training,
        encrypted,
        rounds=3,
        timeout_s=6.0,
        patience_s=24.0,
        faults={"statcan": (1, "nan"), "istat": (3, "dies")},
        wrong_certificate=["cbs"],
    )
    out = {(r, o): why for r, o, why in history.left_out}
    assert set(out) == {(1, "statcan"), (1, "cbs"), (2, "cbs"), (3, "cbs"), (3, "istat")}
    assert "only finite" in out[1, "statcan"]
    assert out[3, "istat"] == "No answer in this round."


def test_a_sleeping_office_is_not_waited_for(offices, network, training):
    history = run(
        flower.processes,
        offices[:3],
        network,
        training,
        fl.Plain(network.parameters),
        timeout_s=4.0,
        faults={"ons": (1, "sleeps")},
    )
    assert {(r, o) for r, o, _ in history.left_out} == {(1, "ons"), (2, "ons")}


def test_what_cannot_run_between_processes_is_refused(offices, network, training, encrypted):
    with pytest.raises(ValueError, match="plainly or under Paillier"):
        run(
            flower.processes,
            offices,
            network,
            training,
            fl.Plain(network.parameters, rule=lambda w, s: w[0]),
        )
    with pytest.raises(ValueError, match="cannot fail as"):
        run(flower.processes, offices, network, training, encrypted, faults={"cbs": (1, "x")})


def test_an_office_that_finds_no_server_says_so(tmp_path):
    got = subprocess.run(
        [sys.executable, "-m", "pet_lab.federated", "office", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert got.returncode == 1
    assert "Traceback" not in got.stderr
    wrong = subprocess.run(
        [sys.executable, "-m", "pet_lab.federated", "king"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2

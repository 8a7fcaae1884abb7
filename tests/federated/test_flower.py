"""The same rounds through Flower: equal to the loop, in process and between processes over TLS."""

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from pet_lab import federated as fl
from pet_lab.federated import flower
from pet_lab.parties.errors import PartyError

pytest.importorskip("flwr", reason="Flower is in the extra 'fl'")


def run(transport, offices, network, training, scheme, **more):
    of_transport = ("timeout_s", "patience_s", "modules")
    how = {k: more.pop(k) for k in of_transport if k in more}
    settings = {"rounds": 2, "seed": 5} | more
    return transport(fl.Federation(offices, network, training, scheme, **settings), **how)


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


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("accuracy", None, "test does not count.*'accuracy', from 0 to 1, got None"),
        ("accuracy", float("nan"), "test does not count"),
        ("accuracy", 1.5, "test does not count"),
        ("loss", "low", "test does not count.*got 'low'"),
        ("train_cpu_s", float("nan"), "'train_cpu_s'"),
        ("train_cpu_s", b"soon", "'train_cpu_s'"),
    ],
)
def test_a_result_of_another_type_is_left_out_and_costs_the_others_nothing(
    offices, network, training, monkeypatch, metric, value, words
):
    def answers(genuine):
        def answer(client, ins):
            res = genuine(client, ins)
            if client.office.name == "cbs" and metric in res.metrics:
                res.metrics[metric] = value
            return res

        return answer

    for name in ("_fit", "_evaluate"):
        monkeypatch.setattr(flower, name, answers(getattr(flower, name)))
    plain = fl.Plain(network.parameters)
    history = run(flower.in_process, offices, network, training, plain, rounds=1)
    ((number, office, why),) = history.left_out
    assert (number, office) == (1, "cbs")
    assert re.search(words, why)
    assert {o for _, o in history.evaluations} >= {"ons", "istat", "statcan"}


def test_a_loss_that_is_not_a_number_is_kept(offices, network, monkeypatch):
    """Training that diverged is honest: its test counts."""
    from flwr.common import Code, EvaluateRes, Status

    res = EvaluateRes(Status(Code.OK, ""), 0.0, 7, {"accuracy": 0.1, "loss": float("nan")})
    assert np.isnan(flower._evaluation(res).loss)


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


@pytest.mark.slow
def test_five_processes_over_tls_give_the_model_of_the_loop(offices, network, training, encrypted):
    a = run(fl.simulate, offices, network, training, encrypted)
    b = run(flower.processes, offices, network, training, encrypted)
    assert b.left_out == ()
    assert np.array_equal(a.weights, b.weights)
    assert a.evaluations == b.evaluations


def run_with_faults(monkeypatch, faults, *args, **more):
    monkeypatch.setenv("PET_LAB_TEST_FAULTS", json.dumps(faults))
    modules = dict.fromkeys(faults, "tests.federated.misbehaving")
    history = run(flower.processes, *args, modules=modules, **more)
    return {(r, o): why for r, o, why in history.left_out}


@pytest.mark.slow
def test_dying_and_uninvited_offices_do_not_stop_the_others(
    offices, network, training, encrypted, monkeypatch
):
    """One process dies, one brings a certificate of another authority, one sends NaN once."""
    faults = {"statcan": ("nan", 1), "istat": ("dies", 3), "cbs": ("stranger", 0)}
    left_out = run_with_faults(
        monkeypatch,
        faults,
        offices,
        network,
        training,
        encrypted,
        rounds=3,
        timeout_s=6.0,
        patience_s=24.0,
    )
    assert set(left_out) == {(1, "statcan"), (1, "cbs"), (2, "cbs"), (3, "cbs"), (3, "istat")}
    assert "only finite" in left_out[1, "statcan"]
    assert left_out[3, "istat"] == "No answer in this round."


@pytest.mark.slow
def test_an_office_without_accuracy_among_its_metrics_ends_in_minutes(
    offices, network, training, monkeypatch
):
    begin, args = time.monotonic(), (offices[:3], network, training, fl.Plain(network.parameters))
    left_out = run_with_faults(monkeypatch, {"ons": ("mute", 0)}, *args, timeout_s=10.0)
    assert set(left_out) == {(1, "ons"), (2, "ons")}
    assert "'accuracy'" in left_out[1, "ons"]
    assert time.monotonic() - begin < 300


@pytest.mark.slow
def test_rubbish_at_the_servers_port_leaves_no_trace(offices, network, training, monkeypatch):
    args = offices[:3], network, training, fl.Plain(network.parameters)
    assert run_with_faults(monkeypatch, {"ons": ("noise", 0)}, *args, timeout_s=20.0) == {}


@pytest.mark.slow
def test_whatever_ends_the_server_is_reported_at_once(offices, network, training, monkeypatch):
    """The office that starts dies when asked for the first model."""
    begin, faults = time.monotonic(), {offices[0].name: ("never starts", 0)}
    with pytest.raises(PartyError, match="training stopped"):
        run_with_faults(
            monkeypatch, faults, offices[:3], network, training, fl.Plain(network.parameters)
        )
    assert time.monotonic() - begin < 300


@pytest.mark.slow
def test_a_sleeping_office_is_not_waited_for(offices, network, training, monkeypatch):
    plain = fl.Plain(network.parameters)
    faults = {"ons": ("sleeps", 1)}
    args = offices[:3], network, training, plain
    left_out = run_with_faults(monkeypatch, faults, *args, timeout_s=4.0)
    assert set(left_out) == {(1, "ons"), (2, "ons")}


@pytest.mark.slow
def test_a_void_round_between_processes_is_told_in_its_sentence(
    offices, network, training, monkeypatch
):
    faults = {o.name: ("nan", 1) for o in offices[:2]}
    with pytest.raises(fl.RoundVoid, match=r"1 usable contributions.*only finite"):
        run_with_faults(
            monkeypatch, faults, offices[:3], network, training, fl.Plain(network.parameters)
        )


def test_what_cannot_run_between_processes_is_refused(offices, network, training, encrypted):
    robust = fl.Plain(network.parameters, rule=lambda w, s: w[0])
    with pytest.raises(ValueError, match="plainly or under Paillier"):
        run(flower.processes, offices, network, training, robust)
    with pytest.raises(ValueError, match="private key"):
        run(flower.processes, offices, network, training, encrypted.public_side())
    boosted = {"transform": {"ons": fl.attacks.boosted(2.0)}}
    with pytest.raises(ValueError, match="transform cannot run between processes"):
        run(flower.processes, offices, network, training, encrypted, **boosted)


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ({"x509_subject_alternative_name": [b"ons"], "peer_dns": [b"ons"]}, "ons"),
        ({"x509_subject_alternative_name": [b"ons"], "peer_email": [b"ons"]}, ""),
        ({"x509_subject_alternative_name": [b"ons"], "peer_uri": [b"ons"]}, ""),
        ({"x509_subject_alternative_name": [b"ons", b"cbs"], "peer_dns": [b"ons", b"cbs"]}, ""),
        ({"x509_subject_alternative_name": [b"ons", b"x"], "peer_dns": [b"ons"]}, ""),
        ({"x509_common_name": [b"ons"]}, ""),
    ],
)
def test_an_office_is_who_one_dns_name_of_its_certificate_says(peer, name):
    assert flower._named_by(peer) == name


def program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pet_lab.federated", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_an_office_without_a_task_says_so(tmp_path):
    ended = program("office", str(tmp_path), "127.0.0.1:1")
    assert ended.returncode == 1
    assert "task.json" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_call_that_makes_no_sense_shows_the_usage():
    ended = program("king")
    assert ended.returncode == 2
    assert "office FOLDER ADDRESS" in ended.stderr


def test_damaged_answers_of_an_office_cost_only_its_own_part(
    offices, network, training, monkeypatch
):
    """Mutants of an office's protobuf messages, decoded by Flower's own code, 2 in each round."""
    from flwr.common import serde
    from flwr.proto.transport_pb2 import ClientMessage

    seed, rounds = 20261127, 40
    rng, parsed = random.Random(seed), Counter()

    def damaged(kind, genuine):
        def answer(client, ins):
            res = genuine(client, ins)
            if client.office.name != "cbs":
                return res
            proto = getattr(serde, f"{kind}_res_to_proto")(res)
            raw = bytearray(ClientMessage(**{f"{kind}_res": proto}).SerializeToString())
            for _ in range(rng.randint(1, 4)):
                place = rng.choice([rng.randrange(30), len(raw) - 1 - rng.randrange(200), -1])
                raw[place % len(raw)] = rng.randrange(256)
            raw = raw[: rng.choice([len(raw), len(raw), rng.randrange(len(raw))])]
            parsed["sent"] += 1
            message = ClientMessage.FromString(bytes(raw))
            parsed["read"] += 1
            return getattr(serde, f"{kind}_res_from_proto")(getattr(message, f"{kind}_res"))

        return answer

    for kind, name in (("fit", "_fit"), ("evaluate", "_evaluate")):
        monkeypatch.setattr(flower, name, damaged(kind, getattr(flower, name)))
    plain = fl.Plain(network.parameters)
    history = run(flower.in_process, offices, network, training, plain, rounds=rounds)
    print(f"seed {seed}: {parsed}, {len(history.left_out)} left out")
    assert {o for _, o, _ in history.left_out} == {"cbs"}
    for office in ("ons", "istat", "statcan"):
        assert {n for n, o in history.evaluations if o == office} == set(range(1, rounds + 1))
    assert parsed["sent"] == 2 * rounds
    assert parsed["read"] > rounds / 4
    assert np.isfinite(history.weights).all()

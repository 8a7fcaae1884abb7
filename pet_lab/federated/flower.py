"""The same rounds through Flower: in process, or as five processes over mutual TLS.

Flower (flwr 1.41) runs the rounds: its `Server` loop, its strategy interface, its wire format and
its bidirectional gRPC service. What is ours: a strategy that lets a `Server` of `rounds` check and
add, and the two ends of the channel, because Flower's own ask no certificate of a client. Here an
office is who its certificate says, and the server accepts the offices it was told of, once each.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pet_lab import paillier
from pet_lab.federated.aggregation import Paillier, Plain, Rejected, Scheme
from pet_lab.federated.model import Evaluation, Network, Training
from pet_lab.federated.partition import Office
from pet_lab.federated.rounds import (
    Cost,
    Global,
    History,
    Client,
    RoundVoid,
    Server,
    Transform,
    Update,
    clients,
)

__all__ = ["ChannelError", "in_process", "join", "processes", "serve"]

SERVER = "server"
_MESSAGE_BYTES = 256 * 2**20
_TENSOR = "pet_lab"
_START_S = 240.0  # for processes to come up, on a machine that is busy with other things
FAULTS = ("dies", "sleeps", "nan", "wrong shape", "overflow")


class ChannelError(RuntimeError):
    """No connection: nobody there, or one side does not accept the other's certificate."""


def _flower() -> Any:
    """Import Flower quietly: no telemetry, no progress on the terminal."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import flwr.common
    import flwr.server

    logging.getLogger("flwr").setLevel(logging.ERROR)
    return flwr


# --- what Flower is given ----------------------------------------------------------------------


def _strategy(server: Server, first: Global | None, evaluations: dict) -> Any:
    """A Flower strategy that leaves checking and adding to `server`."""
    _flower()
    from flwr.common import Code, EvaluateIns, FitIns, Parameters
    from flwr.server.strategy import Strategy

    class Averaging(Strategy):
        def __init__(self) -> None:
            self.share = 0.0
            self.last: Global | None = None

        def initialize_parameters(self, client_manager: Any) -> Any:
            return None if first is None else Parameters(first.message, _TENSOR)

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            ins = FitIns(parameters, {"round": server_round, "share": self.share})
            return [(c, ins) for _, c in sorted(client_manager.all().items())]

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            updates = [_update(c.cid, server.shares.get(c.cid, 0.0), r) for c, r in results]
            named = {u.office for u in updates}
            for failure in failures:
                if isinstance(failure, tuple):
                    named.add(failure[0].cid)
                    server.miss(server_round, failure[0].cid, failure[1].status.message)
                elif isinstance(failure, _Late):
                    named.add(failure.office)
                    server.miss(server_round, failure.office, str(failure))
            for office in sorted(set(server.shares) - named):
                server.miss(server_round, office, "No answer in this round.")
            model = server.combine(server_round, updates)
            self.share, self.last = model.share, model
            return Parameters(model.message, _TENSOR), {}

        def configure_evaluate(
            self, server_round: int, parameters: Any, client_manager: Any
        ) -> Any:
            ins = EvaluateIns(parameters, {"round": server_round, "share": self.share})
            return [(c, ins) for _, c in sorted(client_manager.all().items())]

        def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
            for client, res in results:
                if res.status.code == Code.OK:
                    evaluations[server_round, client.cid] = Evaluation(
                        float(res.metrics["accuracy"]),
                        float(res.metrics["loss"]),  # Flower's own field is a single
                        int(res.num_examples),
                    )
            return None, {}

        def evaluate(self, server_round: int, parameters: Any) -> Any:
            return None

    return Averaging()


class _Late(TimeoutError):
    def __init__(self, office: str, timeout: float) -> None:
        super().__init__(f"The answer came after the {timeout:g} s that a round waits.")
        self.office = office


def _update(office: str, share: float, res: Any) -> Update:
    cpu = {k: float(res.metrics.get(k, 0.0)) for k in ("train_cpu_s", "encrypt_cpu_s", "decrypt_cpu_s")}
    return Update(office, list(res.parameters.tensors), share, **cpu)


def _model(parameters: Any, config: Mapping[str, Any]) -> Global:
    return Global(list(parameters.tensors), float(config["share"]))


def _fit(client: Client, ins: Any) -> Any:
    """An office's answer to a FitIns; what it cannot do is said in the status."""
    from flwr.common import Code, FitRes, Parameters, Status

    try:
        update = client.fit(int(ins.config["round"]), _model(ins.parameters, ins.config))
    except Rejected as error:
        # Flower knows no code for "refused"; any but OK makes it a failure with a message.
        status = Status(Code.FIT_NOT_IMPLEMENTED, str(error))
        return FitRes(status, Parameters([], _TENSOR), 0, {})
    metrics = {k: getattr(update, k) for k in ("train_cpu_s", "encrypt_cpu_s", "decrypt_cpu_s")}
    return FitRes(Status(Code.OK, ""), Parameters(update.message, _TENSOR), client.office.n, metrics)


def _evaluate(client: Client, ins: Any) -> Any:
    from flwr.common import Code, EvaluateRes, Status

    try:
        result = client.evaluate(_model(ins.parameters, ins.config))
    except Rejected as error:
        return EvaluateRes(Status(Code.EVALUATE_NOT_IMPLEMENTED, str(error)), 0.0, 0, {})
    metrics: dict[str, Any] = {"accuracy": result.accuracy, "loss": result.loss}
    return EvaluateRes(Status(Code.OK, ""), result.loss, result.n, metrics)


def _initial(client: Client) -> Any:
    from flwr.common import Code, GetParametersRes, Parameters, Status

    return GetParametersRes(Status(Code.OK, ""), Parameters(client.initial().message, _TENSOR))


def _manager(starter: str) -> Any:
    """Flower's list of clients, where not a random one but `starter` sends the starting model."""
    _flower()
    from flwr.server import SimpleClientManager

    class InOrder(SimpleClientManager):
        def sample(
            self, num_clients: int, min_num_clients: int | None = None, criterion: Any = None
        ) -> Any:
            there = sorted(self.all().items(), key=lambda item: (item[0] != starter, item[0]))
            return [c for _, c in there][:num_clients]

    return InOrder()


# --- in process --------------------------------------------------------------------------------


def in_process(
    offices: Sequence[Office],
    network: Network,
    training: Training,
    scheme: Scheme,
    *,
    rounds: int,
    seed: int,
    server_starts: bool = False,
    transform: Mapping[str, Transform] | None = None,
    timeout_s: float | None = None,
) -> History:
    """As `rounds.simulate`, the rounds run by Flower's server loop; no Ray, no ports.

    timeout_s   an answer that takes longer is left out of its round

    Raises
    ------
    RoundVoid
        If a round lacks contributions.
    """
    flwr = _flower()
    from flwr.server.client_proxy import ClientProxy

    class Here(ClientProxy):
        def __init__(self, client: Client, cid: str) -> None:
            super().__init__(cid)
            self.client = client

        def fit(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            start = time.perf_counter()
            answer = _fit(self.client, ins)
            if timeout is not None and time.perf_counter() - start > timeout:
                raise _Late(self.client.office.name, timeout)
            return answer

        def evaluate(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            return _evaluate(self.client, ins)

        def get_parameters(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            return _initial(self.client)

        def get_properties(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            return flwr.common.GetPropertiesRes(flwr.common.Status(flwr.common.Code.OK, ""), {})

        def reconnect(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            return flwr.common.DisconnectRes("")

    if rounds < 1 or not offices:
        raise ValueError(f"Expected rounds and offices, got {rounds} and {len(offices)}.")
    wall = time.perf_counter()
    crew = clients(offices, network, training, scheme, seed=seed, transform=transform)
    server = Server(
        scheme.public_side(), {p.office.name: p.share for p in crew}, least=min(2, len(crew))
    )
    first = server.initial(network, seed) if server_starts else crew[0].initial()
    evaluations: dict[tuple[int, str], Evaluation] = {}
    strategy = _strategy(server, first, evaluations)
    manager = _manager(crew[0].office.name)
    for client in crew:
        manager.register(Here(client, client.office.name))
    loop = flwr.server.Server(client_manager=manager, strategy=strategy)
    loop.set_max_workers(1)  # one after the other: CPU seconds mean something, results repeat
    loop.fit(num_rounds=rounds, timeout=timeout_s)
    weights, _ = crew[0].decrypt(strategy.last)
    return History(
        weights,
        evaluations,
        tuple(server.left_out),
        tuple(server.costs),
        time.perf_counter() - wall,
    )


# --- processes ---------------------------------------------------------------------------------


def processes(
    offices: Sequence[Office],
    network: Network,
    training: Training,
    scheme: Plain | Paillier,
    *,
    rounds: int,
    seed: int,
    server_starts: bool = False,
    timeout_s: float = 120.0,
    patience_s: float = 120.0,
    faults: Mapping[str, tuple[int, str]] | None = None,
    wrong_certificate: Sequence[str] = (),
) -> History:
    """As `in_process`, with the server and every office a process of its own, over mutual TLS.

    Keys and certificates are fresh and live in a private temporary folder until the end: here the
    caller plays the key management that the report leaves out. The server's process never gets the
    private key. Nothing secret is in a command line or in the output.

    Parameters
    ----------
    timeout_s : float
        How long a round waits for an office.
    patience_s : float
        How long the server waits for the others once two offices have joined; then it goes on.
    faults : mapping from office to (round, kind), optional
        Makes an office fail: kind is one of FAULTS.
    wrong_certificate : sequence of str
        Offices that come with a certificate of another authority.

    Raises
    ------
    RoundVoid
        If a round lacks contributions.
    ChannelError
        If fewer than two offices could join, or the server broke down.
    """
    from pet_lab.psi.certificates import TestAuthority, save

    _check_faults(faults or {})
    if not isinstance(scheme, Plain | Paillier) or getattr(scheme, "rule", None) is not None:
        raise ValueError("Between processes weights are added plainly or under Paillier.")
    wall = time.perf_counter()
    authority, stranger = TestAuthority(), TestAuthority("some other authority")
    total = sum(o.n for o in offices)
    children: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory(prefix="pet_lab_federated_") as root:
        folder = Path(root)
        common = {
            "sizes": network.sizes,
            "rounds": rounds,
            "seed": seed,
            "server_starts": server_starts,
            "timeout_s": timeout_s,
            "patience_s": patience_s,
            "offices": {o.name: o.n / total for o in offices},
            "first": offices[0].name,
            "scheme": _describe(scheme),
        }
        here = save(authority.issue(SERVER), folder / SERVER)
        (here / "config.json").write_text(json.dumps(common))
        try:
            children.append(_start("server", here))
            address = _wait_for(here / "address", children[0], _START_S)
            for number, office in enumerate(offices):
                issuer = stranger if office.name in wrong_certificate else authority
                place = save(issuer.issue(office.name), folder / office.name)
                (place / "ca.pem").write_bytes(authority.certificate)
                _equip(
                    place,
                    office,
                    number=number,
                    common=common,
                    training=training,
                    scheme=scheme,
                    address=address,
                    faults=faults or {},
                )
                children.append(_start("office", place))
            limit = _START_S + patience_s + rounds * (2 * timeout_s + 10)
            children[0].wait(timeout=limit)
            result = here / "result.json"
            if not result.exists():
                raise ChannelError(
                    "The server ended without a result: "
                    + (_tail(here / "log.txt") or "it left no message.")
                )
            told = json.loads(result.read_text())
            if told["error"]:
                kind = RoundVoid if told["void"] else ChannelError
                raise kind(told["error"])
            end = time.monotonic() + 3
            for child in children[1:]:  # whoever still hangs is ended below
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=max(0.0, end - time.monotonic()))
            parts = [(here / f"model.{i}").read_bytes() for i in range(told["parts"])]
            model = Global(parts, told["share"])
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
    weights = scheme.decrypt(model.message, model.share)
    return History(
        weights,
        {(r, o): Evaluation(**e) for r, o, e in told["evaluations"]},
        tuple((r, o, why) for r, o, why in told["left_out"]),
        tuple(Cost(**c) for c in told["costs"]),
        time.perf_counter() - wall,
    )


def _check_faults(faults: Mapping[str, tuple[int, str]]) -> None:
    for office, (_, kind) in faults.items():
        if kind not in FAULTS:
            raise ValueError(f"{office} cannot fail as {kind!r}; kinds are {', '.join(FAULTS)}.")


def _describe(scheme: Plain | Paillier) -> dict[str, Any]:
    if isinstance(scheme, Plain):
        return {"name": "plain", "parameters": scheme.parameters}
    return {
        "name": "paillier",
        "parameters": scheme.parameters,
        "n": hex(scheme.public.n),
        "base": None if scheme.public.base is None else hex(scheme.public.base),
        "packing": asdict(scheme.packing),
        "encrypted_from": scheme.encrypted_from,
        "noise": scheme.noise,
    }


def _scheme(told: Mapping[str, Any], key: paillier.PrivateKey | None = None) -> Plain | Paillier:
    if told["name"] == "plain":
        return Plain(told["parameters"])
    base = told["base"]
    return Paillier(
        told["parameters"],
        paillier.PublicKey(int(told["n"], 16), None if base is None else int(base, 16)),
        paillier.Packing(**told["packing"]),
        key,
        told["encrypted_from"],
        told["noise"],
    )


def _equip(
    place: Path,
    office: Office,
    *,
    number: int,
    common: Mapping[str, Any],
    training: Training,
    scheme: Plain | Paillier,
    address: str,
    faults: Mapping[str, tuple[int, str]],
) -> None:
    """What an office's process finds in its folder: settings, its data, the shared key."""
    from pet_lab.psi.certificates import write_private

    own = {"name": office.name, "number": number, "address": address, "training": asdict(training)}
    fault = {"fault": faults[office.name]} if office.name in faults else {}
    (place / "config.json").write_text(json.dumps({**common, **own, **fault}))
    np.savez(place / "data.npz", X=office.X, y=office.y, X_test=office.X_test, y_test=office.y_test)
    if isinstance(scheme, Paillier):
        if scheme.key is None:
            raise ValueError("The offices need the private key to train; this scheme has none.")
        write_private(place / "paillier.key", scheme.key.to_secret_bytes())


def _start(role: str, folder: Path) -> subprocess.Popen:
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "pet_lab.federated", role, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE"},
        )


def _wait_for(path: Path, child: subprocess.Popen, patience_s: float) -> str:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if path.exists():
            return path.read_text()
        if child.poll() is not None:
            break
        time.sleep(0.05)
    raise ChannelError(f"The server did not come up. {_tail(path.parent / 'log.txt')}".strip())


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1][:300] if lines else ""


def serve(folder: Path) -> None:
    """The server's process: waits for the offices, runs the rounds, leaves result.json."""
    flwr = _flower()
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from flwr.proto.transport_pb2_grpc import add_FlowerServiceServicer_to_server
    from flwr.server.superlink.fleet.grpc_bidi.flower_service_servicer import FlowerServiceServicer
    from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy

    from pet_lab.psi.certificates import load

    config = json.loads((folder / "config.json").read_text())
    credentials = load(folder)
    manager = _manager(config["first"])
    wanted = config["offices"]

    class ByCertificate(FlowerServiceServicer):
        def Join(self, request_iterator: Any, context: Any) -> Iterator[Any]:
            names = context.auth_context().get("x509_common_name", [])
            name = names[0].decode() if len(names) == 1 else ""
            if name not in wanted:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "Not one of the offices.")
            inner = FlowerServiceServicer(
                manager, grpc_client_proxy_factory=lambda _, bridge: GrpcClientProxy(name, bridge)
            )
            yield from inner.Join(request_iterator, context)

    channel = grpc.server(
        ThreadPoolExecutor(max_workers=2 * len(wanted) + 4), options=_channel_options()
    )
    add_FlowerServiceServicer_to_server(ByCertificate(manager), channel)
    port = channel.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(credentials.key, credentials.certificate)], credentials.ca, require_client_auth=True
        ),
    )
    channel.start()
    partial = folder / "address.part"
    partial.write_text(f"127.0.0.1:{port}")
    partial.rename(folder / "address")

    server = Server(_scheme(config["scheme"]), wanted, least=min(2, len(wanted)))
    first = (
        server.initial(Network(tuple(config["sizes"])), config["seed"])
        if config["server_starts"]
        else None
    )
    evaluations: dict[tuple[int, str], Evaluation] = {}
    strategy = _strategy(server, first, evaluations)
    loop = flwr.server.Server(client_manager=manager, strategy=strategy)
    error, void = "", False
    # Interpreters may take their time to start; what is worth waiting for counts from the quorum.
    if manager.wait_for(server.least, timeout=_START_S):
        manager.wait_for(len(wanted), timeout=config["patience_s"])
    try:
        if manager.num_available() < server.least:
            raise ChannelError(
                f"{manager.num_available()} of {len(wanted)} offices joined within "
                f"{_START_S:g} s; {server.least} are needed."
            )
        loop.fit(num_rounds=config["rounds"], timeout=config["timeout_s"])
    except (RoundVoid, ChannelError, Rejected) as problem:
        error, void = str(problem), isinstance(problem, RoundVoid)
    with suppress(Exception):  # whoever is gone needs no goodbye
        loop.disconnect_all_clients(timeout=5)
    model = strategy.last if not error else None
    for i, part in enumerate(model.message if model else []):
        (folder / f"model.{i}").write_bytes(part)
    told = {
        "error": error,
        "void": void,
        "parts": len(model.message) if model else 0,
        "share": model.share if model else 0.0,
        "evaluations": [(r, o, asdict(e)) for (r, o), e in evaluations.items()],
        "left_out": server.left_out,
        "costs": [asdict(c) for c in server.costs],
    }
    (folder / "result.part").write_text(json.dumps(told))
    (folder / "result.part").rename(folder / "result.json")
    channel.stop(grace=1).wait(5)


def join(folder: Path) -> None:
    """An office's process: joins the server and answers until it is sent home.

    Raises
    ------
    ChannelError
        If the server cannot be reached, or one side does not accept the other's certificate.
    """
    _flower()
    import queue

    import grpc
    from flwr.common import serde
    from flwr.proto.transport_pb2 import ClientMessage
    from flwr.proto.transport_pb2_grpc import FlowerServiceStub

    from pet_lab.psi.certificates import load

    config = json.loads((folder / "config.json").read_text())
    credentials = load(folder)
    client = _party(folder, config)
    channel = grpc.secure_channel(
        config["address"],
        grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate),
        options=[*_channel_options(), ("grpc.ssl_target_name_override", SERVER)],
    )
    try:
        # Shorter than the server's patience: an office that is not let in should say so in time.
        grpc.channel_ready_future(channel).result(timeout=config["patience_s"] / 2)
    except grpc.FutureTimeoutError:
        raise ChannelError(
            "No connection to the server: it is not there, or one side does not accept the other's "
            "certificate."
        ) from None
    answers: queue.Queue = queue.Queue()
    try:
        for message in FlowerServiceStub(channel).Join(iter(answers.get, None)):
            kind = message.WhichOneof("msg")
            if kind == "fit_ins":
                res = _fit(client, serde.fit_ins_from_proto(message.fit_ins))
                answers.put(ClientMessage(fit_res=serde.fit_res_to_proto(res)))
            elif kind == "evaluate_ins":
                res = _evaluate(client, serde.evaluate_ins_from_proto(message.evaluate_ins))
                answers.put(ClientMessage(evaluate_res=serde.evaluate_res_to_proto(res)))
            elif kind == "get_parameters_ins":
                res = serde.get_parameters_res_to_proto(_initial(client))
                answers.put(ClientMessage(get_parameters_res=res))
            else:  # reconnect_ins: the rounds are over
                answers.put(ClientMessage(disconnect_res=ClientMessage.DisconnectRes()))
                answers.put(None)
                break
    except grpc.RpcError as error:
        raise ChannelError(f"The server closed the connection: {error.code().name}.") from None
    finally:
        time.sleep(0.2)  # let the last answer leave before the channel closes
        channel.close()


def _party(folder: Path, config: Mapping[str, Any]) -> Client:
    with np.load(folder / "data.npz") as stored:
        office = Office(name=config["name"], users=(), **{k: stored[k] for k in stored.files})
    key_file = folder / "paillier.key"
    key = None
    if key_file.exists():
        key = paillier.PrivateKey.from_secret_bytes(key_file.read_bytes())
    return Client(
        office,
        config["number"],
        config["offices"][office.name],
        Network(tuple(config["sizes"])),
        Training(**config["training"]),
        _scheme(config["scheme"], key),
        config["seed"],
        _fault(*config["fault"]) if "fault" in config else None,
    )


def _fault(when: int, kind: str) -> Transform:
    """A way to fail in one round, to see what the others do."""

    def transform(number: int, received: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if number != when:
            return weights
        if kind == "dies":
            os._exit(3)  # as if the power had gone: no goodbye, no clean-up
        if kind == "sleeps":
            time.sleep(3600)
        if kind == "wrong shape":
            return weights[:-1]
        return np.where(np.arange(weights.size) == 5, np.nan if kind == "nan" else 1e9, weights)

    return transform


def _channel_options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ]

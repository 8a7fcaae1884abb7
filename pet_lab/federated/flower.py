"""The same rounds through Flower: in process, or as five processes over mutual TLS.

Flower (flwr 1.41) runs the rounds: its `Server` loop, its strategy interface, its wire format and
its bidirectional gRPC service. What is ours: a strategy that lets an `Aggregator` of `rounds` check
and add, and the two ends of the channel, because Flower's own ask no certificate of a client. Here
an office is who its certificate says, and the server accepts the offices of its task, once each.
Certificates and processes are those of `pet_lab.parties`.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from pet_lab import paillier
from pet_lab.federated.aggregation import Paillier, Plain, Rejected, Scheme
from pet_lab.federated.model import Evaluation, LocalTraining, Network
from pet_lab.federated.partition import Office
from pet_lab.federated.rounds import (
    CPU_STEPS,
    Aggregator,
    Client,
    Cost,
    Global,
    History,
    RoundVoid,
    Update,
    shares_of,
    start,
)
from pet_lab.files import write_atomic
from pet_lab.parties import certificates
from pet_lab.parties.errors import PartyError, PeerLost
from pet_lab.parties.launch import Process, stop_all

__all__ = ["in_process", "join", "processes", "serve"]

SERVER = "server"
_TENSOR = "pet_lab"
_CHANNEL_OPTIONS = [(f"grpc.max_{way}_message_length", 256 * 2**20) for way in ("send", "receive")]
_START_S = 240.0  # for processes to come up, on a machine that is busy with other things


def _flower() -> Any:
    """Import Flower quietly: no telemetry, no progress on the terminal."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import flwr.common
    import flwr.server

    logging.getLogger("flwr").setLevel(logging.ERROR)
    return flwr


# --- what Flower is given ----------------------------------------------------------------------


def _strategy(server: Aggregator, first: Global | None, evaluations: dict) -> Any:
    """A Flower strategy that leaves checking and adding to `server`."""
    _flower()
    from flwr.common import EvaluateIns, FitIns, Parameters
    from flwr.server.strategy import Strategy

    class Averaging(Strategy):
        def __init__(self) -> None:
            self.share = 0.0
            self.last: Global | None = None

        def initialize_parameters(self, client_manager: Any) -> Any:
            return None if first is None else Parameters(first.message, _TENSOR)

        def configure_fit(
            self, server_round: int, parameters: Any, client_manager: Any, kind: Any = FitIns
        ) -> Any:
            ins = kind(parameters, {"round": server_round, "share": self.share})
            return [(c, ins) for _, c in sorted(client_manager.all().items())]

        def configure_evaluate(
            self, server_round: int, parameters: Any, client_manager: Any
        ) -> Any:
            return self.configure_fit(server_round, parameters, client_manager, EvaluateIns)

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            updates, named = [], {c.cid for c, _ in results}
            for client, res in results:
                try:
                    updates.append(_update(client.cid, res))
                except Rejected as error:
                    server.miss(server_round, client.cid, str(error))
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

        def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
            for client, res in results:
                try:
                    evaluations[server_round, client.cid] = _evaluation(res)
                except Rejected as error:
                    server.miss(server_round, client.cid, f"Its test does not count. {error}")
            return None, {}

        def evaluate(self, server_round: int, parameters: Any) -> Any:
            return None

    return Averaging()


class _Late(TimeoutError):
    def __init__(self, office: str, timeout: float) -> None:
        super().__init__(f"The answer came after the {timeout:g} s that a round waits.")
        self.office = office


def _number(metrics: Mapping[str, Any], name: str, *, most: float = float("inf")) -> float:
    """A number of at least 0 that an office reports; a loss may be NaN where training diverged."""
    value: Any = metrics.get(name)
    diverged = name == "loss" and isinstance(value, float) and math.isnan(value)
    if diverged or (isinstance(value, int | float) and 0 <= value <= most):
        return float(value)
    raise Rejected(f"Expected the number {name!r}, from 0 to {most:g}, got {value!r}.")


def _update(office: str, res: Any) -> Update:
    cpu = {k: _number(res.metrics, k, most=1e9) for k in CPU_STEPS}
    return Update(office, list(res.parameters.tensors), **cpu)


def _evaluation(res: Any) -> Evaluation:
    # The loss as a metric: Flower's own field for it is a single.
    accuracy, loss = _number(res.metrics, "accuracy", most=1), _number(res.metrics, "loss")
    return Evaluation(accuracy, loss, int(_number({"windows": res.num_examples}, "windows")))


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
    metrics, status = {k: getattr(update, k) for k in CPU_STEPS}, Status(Code.OK, "")
    return FitRes(status, Parameters(update.message, _TENSOR), client.office.n, metrics)


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
        def sample(self, num_clients: int, *_: Any, **__: Any) -> Any:
            there = sorted(self.all().items(), key=lambda item: (item[0] != starter, item[0]))
            return [c for _, c in there][:num_clients]

    return InOrder()


# --- in process --------------------------------------------------------------------------------


def in_process(
    offices: Sequence[Office],
    network: Network,
    training: LocalTraining,
    scheme: Scheme,
    *,
    rounds: int,
    timeout_s: float | None = None,
    **how: Any,
) -> History:
    """As `rounds.simulate`, the rounds run by Flower's server loop; no Ray, no ports.

    timeout_s   an answer that takes longer is left out of its round
    how         as of `rounds.start`

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

    wall = time.perf_counter()
    clients, server, first = start(offices, network, training, scheme, **how)
    evaluations: dict[tuple[int, str], Evaluation] = {}
    strategy = _strategy(server, first, evaluations)
    manager = _manager(clients[0].office.name)
    for client in clients:
        manager.register(Here(client, client.office.name))
    loop = flwr.server.Server(client_manager=manager, strategy=strategy)
    loop.set_max_workers(1)  # one after the other: CPU seconds mean something, results repeat
    loop.fit(num_rounds=rounds, timeout=timeout_s)
    weights, _ = clients[0].decrypt(strategy.last)
    return server.history(weights, evaluations, time.perf_counter() - wall)


# --- processes ---------------------------------------------------------------------------------


class SchemeOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scheme without secrets, as JSON carries it; the numbers of a Paillier key are hex."""

    parameters: int
    n: str = ""
    base: str = ""
    packing: paillier.Packing | None = None
    encrypted_from: int = 0
    noise: Literal["fresh", "short"] = "short"

    @classmethod
    def describe(cls, scheme: Scheme) -> SchemeOf:
        """ValueError if it cannot run between processes."""
        if isinstance(scheme, Paillier):
            return cls(
                scheme.parameters,
                hex(scheme.public.n),
                "" if scheme.public.base is None else hex(scheme.public.base),
                scheme.packing,
                scheme.encrypted_from,
                scheme.noise,
            )
        if isinstance(scheme, Plain) and scheme.rule is None:
            return cls(scheme.parameters)
        raise ValueError("Between processes weights are averaged plainly or under Paillier.")

    def scheme(self, key: paillier.PrivateKey | None = None) -> Plain | Paillier:
        """The scheme again, with the private key where there is one."""
        if self.packing is None:
            return Plain(self.parameters)
        public = paillier.PublicKey(int(self.n, 16), int(self.base, 16) if self.base else None)
        return Paillier(self.parameters, public, self.packing, key, self.encrypted_from, self.noise)


class FederationTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every process of a federation is told; `shares` lists the offices, the first starts."""

    sizes: tuple[int, ...]
    rounds: int
    seed: int
    server_starts: bool
    timeout_s: float
    patience_s: float
    shares: dict[str, float]
    scheme: SchemeOf
    training: LocalTraining

    @property
    def limit_s(self) -> float:
        """Seconds after which every process of the federation gives up, whatever it waits for."""
        return _START_S + self.patience_s + self.rounds * (2 * self.timeout_s + 10)


class FederationResult(msgspec.Struct, frozen=True):
    """What the server's process reports at the end; `error` is "" if all went well."""

    error: str
    void: bool
    message: list[bytes]
    share: float
    evaluations: list[tuple[int, str, float, float | None, int]]  # JSON knows no NaN
    left_out: list[tuple[int, str, str]]
    costs: list[Cost]


def processes(
    offices: Sequence[Office],
    network: Network,
    training: LocalTraining,
    scheme: Scheme,
    *,
    rounds: int,
    seed: int,
    server_starts: bool = False,
    timeout_s: float = 120.0,
    patience_s: float = 120.0,
    modules: Mapping[str, str] | None = None,
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
    modules : mapping from office to module, optional
        What an office runs instead of `pet_lab.federated`: its own program, that of a test.

    Raises
    ------
    RoundVoid
        If a round lacks contributions.
    PartyError
        If fewer than two offices could join, or the server ended early.
    ValueError
        If the scheme cannot run between processes, or has no private key for the offices.
    """
    task = FederationTask(
        network.sizes,
        rounds,
        seed,
        server_starts,
        timeout_s,
        patience_s,
        shares_of(offices),
        SchemeOf.describe(scheme),
        training,
    )
    if isinstance(scheme, Paillier) and scheme.key is None:
        raise ValueError("The offices need the private key to train; this scheme has none.")
    wall = time.perf_counter()
    authority, started = certificates.TestAuthority(), list[Process]()
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE"}
    with tempfile.TemporaryDirectory(prefix="pet_lab_federated_") as root:
        try:
            place = certificates.save(authority.issue(SERVER), Path(root, SERVER))
            (place / "task.json").write_bytes(msgspec.json.encode(task))
            arguments = ["server", str(place)]
            settings: dict[str, Any] = {"environment": environment, "remove": Path(root)}
            server = Process(SERVER, __package__, arguments, **settings)
            started.append(server)
            address = server.wait_for("listening", _START_S)["address"]
            for office in offices:
                place = certificates.save(authority.issue(office.name), Path(root, office.name))
                (place / "task.json").write_bytes(msgspec.json.encode(task))
                arrays = {k: v for k, v in vars(office).items() if isinstance(v, np.ndarray)}
                np.savez(place / "data.npz", **arrays)
                if isinstance(scheme, Paillier):
                    assert scheme.key is not None
                    secret = scheme.key.to_secret_bytes()
                    write_atomic(place / "paillier.key", secret, secret=True)
                module = (modules or {}).get(office.name, __package__)
                arguments = ["office", str(place), address]
                started.append(Process(office.name, module, arguments, **settings))
            report = server.wait_for("finished", task.limit_s)["result"]
            result = msgspec.convert(report, FederationResult)
        finally:
            stop_all(started)
    if result.error:
        raise (RoundVoid if result.void else PartyError)(result.error)
    return History(
        scheme.decrypt(result.message, result.share),
        {
            (number, office): Evaluation(accuracy, float("nan") if loss is None else loss, n)
            for number, office, accuracy, loss, n in result.evaluations
        },
        tuple(result.left_out),
        tuple(result.costs),
        time.perf_counter() - wall,
    )


def _report(event: str, **more: Any) -> None:
    print(msgspec.json.encode({"event": event, **more}).decode(), flush=True)


def _task(folder: Path) -> FederationTask:
    return msgspec.json.decode((folder / "task.json").read_bytes(), type=FederationTask)


def _named_by(peer: Mapping[str, Sequence[bytes]]) -> str:
    """The one name of a certificate, a DNS name: an e-mail or web address is none. Else ""."""
    names = list(peer.get("x509_subject_alternative_name", []))
    return names[0].decode() if len(names) == 1 and list(peer.get("peer_dns", [])) == names else ""


def serve(folder: Path) -> None:
    """The server's process: reports its address, waits for the offices, runs the rounds, reports.

    `folder` holds its credentials and task.json.
    """
    flwr = _flower()
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from flwr.proto.transport_pb2_grpc import add_FlowerServiceServicer_to_server
    from flwr.server.superlink.fleet.grpc_bidi.flower_service_servicer import FlowerServiceServicer
    from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy

    task, credentials = _task(folder), certificates.load(folder)
    manager = _manager(next(iter(task.shares)))

    class ByCertificate(FlowerServiceServicer):
        def Join(self, request_iterator: Any, context: Any) -> Iterator[Any]:
            name = _named_by(context.auth_context())
            if name not in task.shares:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "Not one of the offices.")
            inner = FlowerServiceServicer(
                manager, grpc_client_proxy_factory=lambda _, bridge: GrpcClientProxy(name, bridge)
            )
            yield from inner.Join(request_iterator, context)

    channel = grpc.server(
        ThreadPoolExecutor(max_workers=2 * len(task.shares) + 4), options=_CHANNEL_OPTIONS
    )
    add_FlowerServiceServicer_to_server(ByCertificate(manager), channel)
    port = channel.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(credentials.key, credentials.certificate)], credentials.ca, require_client_auth=True
        ),
    )
    channel.start()
    _report("listening", address=f"127.0.0.1:{port}")

    server = Aggregator(task.scheme.scheme(), task.shares, least=min(2, len(task.shares)))
    first = server.initial(Network(task.sizes), task.seed) if task.server_starts else None
    evaluations: dict[tuple[int, str], Evaluation] = {}
    strategy = _strategy(server, first, evaluations)
    loop = flwr.server.Server(client_manager=manager, strategy=strategy)
    error: Exception | None = None
    model = Global([])
    # Interpreters may take their time to start; what is worth waiting for counts from the quorum.
    if manager.wait_for(server.least, timeout=_START_S):
        manager.wait_for(len(task.shares), timeout=task.patience_s)
    try:
        if manager.num_available() < server.least:
            raise PartyError(
                f"{manager.num_available()} of {len(task.shares)} offices joined within "
                f"{_START_S:g} s; {server.least} are needed."
            )
        loop.fit(num_rounds=task.rounds, timeout=task.timeout_s)
        model = strategy.last
    except (RoundVoid, PartyError, Rejected) as problem:
        error = problem
    except Exception as problem:  # else the offices and the caller wait in vain
        error = PartyError(f"The training stopped: {type(problem).__name__} {problem}".strip())
    with suppress(Exception):  # whoever is gone needs no goodbye
        loop.disconnect_all_clients(timeout=5)
    result = FederationResult(
        str(error or ""),
        isinstance(error, RoundVoid),
        model.message,
        model.share,
        [(*key, e.accuracy, e.loss, e.n) for key, e in evaluations.items()],
        server.left_out,
        server.costs,
    )
    _report("finished", result=result)
    channel.stop(grace=1).wait(5)


def join(folder: Path, address: str, program: type[Client] = Client) -> None:
    """An office's process: joins the server and answers until it is sent home.

    Parameters
    ----------
    folder : Path
        Its credentials, task.json, data.npz and, under Paillier, the offices' key.
    address : str
        Host and port of the server.
    program : type
        The office's program; a test hands in one that misbehaves.

    Raises
    ------
    PeerLost
        If the server cannot be reached, or one side does not accept the other's certificate.
    """
    _flower()
    import queue

    import grpc
    from flwr.common import serde
    from flwr.proto.transport_pb2 import ClientMessage
    from flwr.proto.transport_pb2_grpc import FlowerServiceStub

    task, credentials = _task(folder), certificates.load(folder)
    client = _client(folder, task, credentials.name, program)
    channel = grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate),
        options=[*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", SERVER)],
    )
    try:
        # Shorter than the server's patience: an office that is not let in should say so in time.
        grpc.channel_ready_future(channel).result(timeout=task.patience_s / 2)
    except grpc.FutureTimeoutError:
        raise PeerLost(
            SERVER,
            "No connection to the server: it is not there, or one side does not accept the other's "
            "certificate.",
        ) from None
    answers: queue.Queue = queue.Queue()
    try:
        stub = FlowerServiceStub(channel)
        for message in stub.Join(iter(answers.get, None), timeout=task.limit_s):
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
        raise PeerLost(SERVER, f"The server closed the connection: {error.code().name}.") from None
    finally:
        time.sleep(0.2)  # let the last answer leave before the channel closes
        channel.close()


def _client(folder: Path, task: FederationTask, name: str, program: type[Client]) -> Client:
    with np.load(folder / "data.npz") as stored:
        office = Office(name=name, users=(), **{k: stored[k] for k in stored.files})
    key, key_file = None, folder / "paillier.key"
    if key_file.exists():
        key = paillier.PrivateKey.from_secret_bytes(key_file.read_bytes())
    return program(
        office,
        list(task.shares).index(name),
        task.shares[name],
        Network(task.sizes),
        task.training,
        task.scheme.scheme(key),
        task.seed,
    )

"""The same rounds through Flower: in process, or as five processes over mutual TLS.

Flower (flwr 1.41) runs the rounds: its `Server` loop, its strategy interface, its wire format and
its bidirectional gRPC service. What is ours: a strategy that lets an `Aggregator` of `rounds` check
and add, and the two ends of the channel, because Flower's own ask no certificate of a client. Here
an office is who its certificate says, and the server accepts the offices of its task, once each.
Certificates and processes are those of `pet_lab.parties`.
"""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import queue
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from pet_lab import paillier
from pet_lab.checks import require
from pet_lab.federated.aggregation import Paillier, Plain, Rejected, Scheme
from pet_lab.federated.model import Evaluation, LocalTraining, Network
from pet_lab.federated.partition import Office
from pet_lab.federated.rounds import (
    CPU_STEPS,
    Aggregator,
    Client,
    Federation,
    Global,
    History,
    RoundVoid,
    Update,
    history,
)
from pet_lab.files import write_atomic
from pet_lab.parties import certificates
from pet_lab.parties.errors import PartyError, PeerLost
from pet_lab.parties.launch import Process, stop_all
from pet_lab.parties.state import kept

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


def _strategy(server: Aggregator, first: Global | None) -> Any:
    """A Flower strategy that leaves checking and adding to `server`."""
    from flwr.common import EvaluateIns, FitIns, Parameters
    from flwr.server.strategy import Strategy

    class Averaging(Strategy):
        def __init__(self) -> None:
            self.last = first or Global([])

        def initialize_parameters(self, client_manager: Any) -> Any:
            return first and Parameters(first.message, _TENSOR)

        def configure_fit(
            self, server_round: int, parameters: Any, client_manager: Any, kind: Any = FitIns
        ) -> Any:
            ins = kind(parameters, {"round": server_round, "share": self.last.share})
            return [(c, ins) for _, c in sorted(client_manager.all().items())]

        def configure_evaluate(
            self, server_round: int, parameters: Any, client_manager: Any
        ) -> Any:
            return self.configure_fit(server_round, parameters, client_manager, EvaluateIns)

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            updates, reasons = [], dict.fromkeys(server.shares, "No answer in this round.")
            for client, res in results:
                reasons.pop(client.cid, None)
                try:
                    updates.append(_update(client.cid, res))
                except Rejected as error:
                    server.miss(server_round, client.cid, str(error))
            for failure in failures:
                if isinstance(failure, tuple):
                    reasons[failure[0].cid] = failure[1].status.message
                elif isinstance(failure, _Late):
                    reasons[failure.office] = str(failure)
            for office in sorted(reasons):
                server.miss(server_round, office, reasons[office])
            self.last = server.combine(server_round, updates)
            return Parameters(self.last.message, _TENSOR), {}

        def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
            for client, res in results:
                try:
                    server.evaluations[server_round, client.cid] = _evaluation(res)
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
    inside = diverged or (isinstance(value, int | float) and 0 <= value <= most)
    sentence = f"Expected the number {name!r}, from 0 to {most:g}, got {value!r}."
    require(inside, sentence, Rejected)
    return float(value)


def _update(office: str, res: Any) -> Update:
    cpu_s = {step: _number(res.metrics, step, most=1e9) for step in CPU_STEPS}
    return Update(office, list(res.parameters.tensors), cpu_s)


def _evaluation(res: Any) -> Evaluation:
    # The loss as a metric: Flower's own field for it is a single.
    accuracy, loss = _number(res.metrics, "accuracy", most=1), _number(res.metrics, "loss")
    return Evaluation(accuracy, loss, int(_number({"windows": res.num_examples}, "windows")))


def _model(ins: Any) -> Global:
    return Global(list(ins.parameters.tensors), float(ins.config["share"]))


def _fit(client: Client, ins: Any) -> Any:
    """An office's answer to a FitIns; what it cannot do is said in the status."""
    from flwr.common import Code, FitRes, Parameters, Status

    try:
        update = client.fit(int(ins.config["round"]), _model(ins))
    except Rejected as error:
        # Flower knows no code for "refused"; any but OK makes it a failure with a message.
        status = Status(Code.FIT_NOT_IMPLEMENTED, str(error))
        return FitRes(status, Parameters([], _TENSOR), 0, {})
    weights = Parameters(update.message, _TENSOR)
    return FitRes(Status(Code.OK, ""), weights, client.office.n, dict(update.cpu_s))


def _evaluate(client: Client, ins: Any) -> Any:
    from flwr.common import Code, EvaluateRes, Status

    try:
        result = client.evaluate(_model(ins))
    except Rejected as error:
        return EvaluateRes(Status(Code.EVALUATE_NOT_IMPLEMENTED, str(error)), 0.0, 0, {})
    metrics: dict[str, Any] = {"accuracy": result.accuracy, "loss": result.loss}
    return EvaluateRes(Status(Code.OK, ""), result.loss, result.n, metrics)


def _initial(client: Client, ins: Any) -> Any:
    from flwr.common import Code, GetParametersRes, Parameters, Status

    return GetParametersRes(Status(Code.OK, ""), Parameters(client.initial().message, _TENSOR))


def _loop(starter: str, strategy: Any) -> Any:
    """Flower's server, where not a random client but `starter` sends the first model."""
    from flwr.server import Server, SimpleClientManager

    class InOrder(SimpleClientManager):
        def sample(self, num_clients: int, *_: Any, **__: Any) -> Any:
            in_order = sorted(self.all().items(), key=lambda item: (item[0] != starter, item[0]))
            return [c for _, c in in_order][:num_clients]

    return Server(client_manager=InOrder(), strategy=strategy)


# --- in process --------------------------------------------------------------------------------


def in_process(federation: Federation, *, timeout_s: float | None = None) -> History:
    """As `rounds.simulate`, the rounds run by Flower's server loop; no Ray, no ports.

    An answer that takes longer than `timeout_s` is left out of its round. RoundVoid if a round
    lacks contributions.
    """
    _flower()
    from flwr.server.client_proxy import ClientProxy

    class Here(ClientProxy):
        get_properties: Any = None  # abstract in Flower; its loop asks for neither
        reconnect: Any = None

        def __init__(self, client: Client) -> None:
            super().__init__(client.office.name)
            self.client = client

        def fit(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            start = time.perf_counter()
            answer = _fit(self.client, ins)
            if timeout is not None and time.perf_counter() - start > timeout:
                raise _Late(self.cid, timeout)
            return answer

        def evaluate(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            return _evaluate(self.client, ins)

        def get_parameters(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
            return _initial(self.client, ins)

    wall = time.perf_counter()
    clients, server, first = federation.start()
    loop = _loop(clients[0].office.name, strategy := _strategy(server, first))
    for client in clients:
        loop.client_manager().register(Here(client))
    loop.set_max_workers(1)  # one after the other: CPU seconds mean something, results repeat
    loop.fit(num_rounds=federation.rounds, timeout=timeout_s)
    return history(clients[0].decrypt(strategy.last)[0], server, wall)


# --- processes ---------------------------------------------------------------------------------


class SchemeOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scheme without secrets, as a task carries it; the numbers of a Paillier key are hex."""

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
            n, base = (hex(number or 0) for number in (scheme.public.n, scheme.public.base))
            how = scheme.packing, scheme.encrypted_from, scheme.noise
            return cls(scheme.parameters, n, base, *how)
        clear = isinstance(scheme, Plain) and scheme.rule is None
        require(clear, "Between processes weights are averaged plainly or under Paillier.")
        return cls(scheme.parameters)

    def scheme(self, key: paillier.PrivateKey | None = None) -> Plain | Paillier:
        """The scheme again, with the private key where there is one."""
        if self.packing is None:
            return Plain(self.parameters)
        public = paillier.PublicKey(int(self.n, 16), int(self.base, 16) or None)
        return Paillier(self.parameters, public, self.packing, key, self.encrypted_from, self.noise)


class FederationTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every process of a federation is told; `shares` lists the offices, the first starts."""

    network: Network
    training: LocalTraining
    scheme: SchemeOf
    shares: dict[str, float]
    rounds: int
    seed: int
    server_starts: bool
    timeout_s: float
    patience_s: float

    @property
    def limit_s(self) -> float:
        """Seconds after which every process of the federation gives up, whatever it waits for."""
        return _START_S + self.patience_s + self.rounds * (2 * self.timeout_s + 10)

    @classmethod
    def read(cls, folder: Path) -> FederationTask:
        """The task in a folder."""
        decode = functools.partial(msgspec.json.decode, type=cls)
        return kept(folder / "task.json", decode, what="the task of a federation")


class FederationResult(msgspec.Struct, frozen=True):
    """What the server's process leaves in its folder; `error` is "" if all went well."""

    error: str
    void: bool
    model: Global
    evaluations: dict[tuple[int, str], Evaluation]
    left_out: list[tuple[int, str, str]]
    costs: dict[str, float]


def processes(
    federation: Federation,
    *,
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
    timeout_s : how long a round waits for an office.
    patience_s : float
        How long the server waits for the others once two offices have joined; then it goes on.
    modules : what an office runs instead of `pet_lab.federated`: its own program, that of a test.

    Raises
    ------
    RoundVoid
        If a round lacks contributions.
    PartyError
        If fewer than two offices could join, or the server ended early.
    ValueError
        If the scheme or a transform cannot run between processes, or the offices' private key is
        missing.
    """
    f, scheme = federation, federation.scheme
    require(not f.transform, "A transform cannot run between processes: pass `modules` instead.")
    task = FederationTask(
        f.network,
        f.training,
        SchemeOf.describe(scheme),
        f.shares,
        f.rounds,
        f.seed,
        f.server_starts,
        timeout_s,
        patience_s,
    )
    key = scheme.key if isinstance(scheme, Paillier) else None
    missing = "The offices need the private key to train; this scheme has none."
    require(key or isinstance(scheme, Plain), missing)
    wall = time.perf_counter()
    authority, started = certificates.TestAuthority(), list[Process]()
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE"}
    with tempfile.TemporaryDirectory(prefix="pet_lab_federated_") as root:

        def launch(name: str, module: str, role: str, *more: str) -> Process:
            arguments, how = [role, str(Path(root, name)), *more], {"remove": Path(root)}
            started.append(Process(name, module, arguments, environment=environment, **how))
            return started[-1]

        def folder(name: str) -> Path:
            place = certificates.save(authority.issue(name), Path(root, name))
            (place / "task.json").write_bytes(msgspec.json.encode(task))
            return place

        try:
            home = folder(SERVER)
            server = launch(SERVER, __package__, "server")
            address = server.wait_for("listening", _START_S)["address"]
            for office in f.offices:
                place = folder(office.name)
                arrays = {k: v for k, v in vars(office).items() if isinstance(v, np.ndarray)}
                np.savez(place / "data.npz", **arrays)
                if key is not None:
                    write_atomic(place / "paillier.key", key.to_secret_bytes(), secret=True)
                launch(
                    office.name, (modules or {}).get(office.name, __package__), "office", address
                )
            server.wait_for("finished", task.limit_s)
            decode = functools.partial(msgspec.msgpack.decode, type=FederationResult)
            again = "run the federation again"
            result = kept(home / "result.msgpack", decode, what="the server's result", fix=again)
        finally:
            stop_all(started)
    require(not result.error, result.error, RoundVoid if result.void else PartyError)
    weights = scheme.decrypt(result.model.message, result.model.share)
    seconds = time.perf_counter() - wall
    return History(weights, result.evaluations, tuple(result.left_out), result.costs, seconds)


def _report(event: str, **more: Any) -> None:
    print(msgspec.json.encode({"event": event, **more}).decode(), flush=True)


def _named_by(peer: Mapping[str, Sequence[bytes]]) -> str:
    """The one name of a certificate, a DNS name: an e-mail or web address is none. Else ""."""
    names = list(peer.get("x509_subject_alternative_name", []))
    return names[0].decode() if len(names) == 1 and list(peer.get("peer_dns", [])) == names else ""


def serve(folder: Path) -> None:
    """The server's process: reports its address, waits for the offices, runs the rounds, reports.

    `folder` holds its credentials and task.json, and in the end result.msgpack.
    """
    _flower()
    import grpc
    from flwr.proto.transport_pb2_grpc import add_FlowerServiceServicer_to_server
    from flwr.server.superlink.fleet.grpc_bidi.flower_service_servicer import FlowerServiceServicer
    from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy

    task, credentials = FederationTask.read(folder), certificates.load(folder)
    server = Aggregator(task.scheme.scheme(), task.shares)
    first = server.initial(task.network, task.seed) if task.server_starts else None
    loop = _loop(next(iter(task.shares)), strategy := _strategy(server, first))
    manager = loop.client_manager()

    class ByCertificate(FlowerServiceServicer):
        def Join(self, request_iterator: Any, context: Any) -> Iterator[Any]:
            name = _named_by(context.auth_context())
            if name not in task.shares:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "Not one of the offices.")
            inner = FlowerServiceServicer(
                manager, grpc_client_proxy_factory=lambda _, bridge: GrpcClientProxy(name, bridge)
            )
            yield from inner.Join(request_iterator, context)

    channel = grpc.server(ThreadPoolExecutor(2 * len(task.shares) + 4), options=_CHANNEL_OPTIONS)
    add_FlowerServiceServicer_to_server(ByCertificate(manager), channel)
    own, ca = [(credentials.key, credentials.certificate)], credentials.ca
    tls = grpc.ssl_server_credentials(own, ca, require_client_auth=True)
    port = channel.add_secure_port("127.0.0.1:0", tls)
    channel.start()
    _report("listening", address=f"127.0.0.1:{port}")

    error: Exception | None = None
    # Interpreters may take their time to start; what is worth waiting for counts from the quorum.
    if manager.wait_for(server.least, timeout=_START_S):
        manager.wait_for(len(task.shares), timeout=task.patience_s)
    try:
        require(
            (joined := manager.num_available()) >= server.least,
            f"{joined} of {len(task.shares)} offices joined within {_START_S:g} s; {server.least} "
            "are needed.",
            PartyError,
        )
        loop.fit(num_rounds=task.rounds, timeout=task.timeout_s)
    except (RoundVoid, PartyError, Rejected) as problem:
        error = problem
    except Exception as problem:  # else the offices and the caller wait in vain
        error = PartyError(f"The training stopped: {type(problem).__name__} {problem}".strip())
    with suppress(Exception):  # whoever is gone needs no goodbye
        loop.disconnect_all_clients(timeout=5)
    void, records = (
        isinstance(error, RoundVoid),
        (server.evaluations, server.left_out, server.costs),
    )
    result = FederationResult(str(error or ""), void, strategy.last, *records)
    (folder / "result.msgpack").write_bytes(msgspec.msgpack.encode(result))
    _report("finished")
    channel.stop(grace=1).wait(5)


def join(folder: Path, address: str, program: type[Client] = Client) -> None:
    """An office's process: joins the server and answers until it is sent home.

    `folder` holds its credentials, task.json, data.npz and, under Paillier, the offices' key;
    `program` is the office's, a test hands in one that misbehaves. PeerLost if the server at
    `address` cannot be reached, or one side does not accept the other's certificate.
    """
    _flower()
    import grpc
    from flwr.common import serde
    from flwr.proto.transport_pb2 import ClientMessage
    from flwr.proto.transport_pb2_grpc import FlowerServiceStub

    task, credentials = FederationTask.read(folder), certificates.load(folder)
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
    programs = {"fit": _fit, "evaluate": _evaluate, "get_parameters": _initial}
    try:
        stub = FlowerServiceStub(channel)
        for message in stub.Join(iter(answers.get, None), timeout=task.limit_s):
            question = message.WhichOneof("msg")
            kind = question.removesuffix("_ins")
            if kind not in programs:  # reconnect: the rounds are over
                answers.put(ClientMessage(disconnect_res=ClientMessage.DisconnectRes()))
                answers.put(None)
                break
            ins = getattr(serde, f"{question}_from_proto")(getattr(message, question))
            answer = getattr(serde, f"{kind}_res_to_proto")(programs[kind](client, ins))
            answers.put(ClientMessage(**{f"{kind}_res": answer}))
    except grpc.RpcError as error:
        raise PeerLost(SERVER, f"The server closed the connection: {error.code().name}.") from None
    finally:
        time.sleep(0.2)  # let the last answer leave before the channel closes
        channel.close()


def _client(folder: Path, task: FederationTask, name: str, program: type[Client]) -> Client:
    def arrays(raw: bytes) -> Office:
        with np.load(io.BytesIO(raw)) as stored:
            return Office(name=name, users=(), **stored)

    office = kept(folder / "data.npz", arrays, what="the arrays of an office")
    key, key_file = None, folder / "paillier.key"
    if key_file.exists():
        decode = paillier.PrivateKey.from_secret_bytes
        key = kept(key_file, decode, what="a Paillier key of ours")
    number, scheme = list(task.shares).index(name), task.scheme.scheme(key)
    how = (task.network, task.training, scheme, task.seed)
    return program(office, number, task.shares[name], *how)

"""Decoders of foreign bytes, each as a function of bytes that accepts only documented errors.

`TARGETS[name](raw)` returns whether the bytes were read, and raises on anything that is neither a
value nor a refusal in one short sentence. What was read is used once as its receiver would use it:
hashed, verified, compared with the clock, written again.
"""

import asyncio
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import examples
import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pet_lab.data import DataError, read_table
from pet_lab.federated import aggregation, masking
from pet_lab.mia.scores import read_scores
from pet_lab.mpc import messages as service
from pet_lab.mpc.tasks import read_task
from pet_lab.paillier import PaillierError, PrivateKey
from pet_lab.parties import log
from pet_lab.parties.channel import HEADER, JSON, REFUSAL, Channel, Options
from pet_lab.parties.errors import PartyError
from pet_lab.psi import commands, session
from pet_lab.psi.disclosure import QueryLog
from pet_lab.psi.linker import LinkerAnswer, Query
from pet_lab.psi.messages import End, Hello, Stream
from pet_lab.psi.protocol import Link
from pet_lab.psi.service import Receipt, Status, StatusRequest
from pet_lab.psi.tokens import TOKEN_WIDTH, TableHeader, unpack
from pet_lab.workbench import notebooks, published, runs
from pet_lab.workbench.errors import WorkbenchError

LONGEST = 4500  # of a sentence: a refusal may quote what the peer refused with


@dataclass(frozen=True)
class Target:
    """A decoder: `read` may raise `refusals` and nothing else; `seeds` makes valid inputs."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]

    def __call__(self, raw: bytes) -> bool:
        """Whether the bytes were read; any other error than a refusal leaves."""
        try:
            self.read(raw)
            return True
        except self.refusals as error:
            refusal = error
        # These are ValueErrors too, but of a library.
        assert not isinstance(refusal, UnicodeError | msgspec.MsgspecError | json.JSONDecodeError)
        assert str(refusal), "a refusal without a sentence"
        if isinstance(refusal, PartyError):  # a stranger decides what it says
            assert len(str(refusal)) < LONGEST, str(refusal)[:200]
        return False


TARGETS: dict[str, Target] = {}


def target(*refusals: type[Exception], seeds: Callable[[], list[bytes]]):
    """Register a function of bytes under its own name."""

    def register(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
        TARGETS[read.__name__] = Target(read, refusals, seeds)
        return read

    return register


@functools.cache
def folder() -> Path:
    """Where decoders of files find their file; in memory where the system has such a place."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="pet-lab-fuzz-", dir=shared if shared.is_dir() else None))


def file(raw: bytes, name: str) -> Path:
    """A file that holds these bytes."""
    path = folder() / name
    path.write_bytes(raw)
    return path


def forget_files() -> None:
    """Remove what `file` wrote."""
    shutil.rmtree(folder(), ignore_errors=True)
    folder.cache_clear()


# --- frames and typed messages --------------------------------------------------------------------


class NoWriter:
    """A writer to nobody."""

    def __init__(self):
        self.transport = self

    def is_closing(self):
        return True

    def close(self):
        pass

    async def wait_closed(self):
        pass

    def abort(self):
        pass


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def frame(payload: bytes, form: int = JSON) -> bytes:
    """A payload as a frame."""
    return HEADER.pack(len(payload), form) + payload


async def _received(raw: bytes, message_type) -> list:
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    options = Options(timeout_s=5, max_frame=2**16)
    line = Channel(reader, NoWriter(), party="b", peer="a", options=options)
    messages = []
    try:
        while True:
            messages.append(await line.receive(message_type))
    except PartyError as error:
        sentence = str(error)
        assert "\n" not in sentence, sentence
        if messages:
            return messages  # what came before the end of the frames
        raise
    finally:
        await line.close()


def received(raw: bytes, message_type) -> list:
    """Messages that a channel reads from these frames; PartyError if there is not one."""
    return loop().run_until_complete(_received(raw, message_type))


def first(raw: bytes, message_type):
    """The message of one frame with this payload."""
    message = received(frame(raw), message_type)[0]
    again = received(frame(msgspec.json.encode(message)), message_type)[0]
    assert again == message, "what was read is not what it writes"
    return message


def frames() -> list[bytes]:
    refusal = frame(msgspec.json.encode(examples.REFUSAL), REFUSAL)
    several = [frame(raw) for raw in examples.wire(examples.PSI)]
    return [*several, b"".join(several), several[1] + refusal]


@target(PartyError, seeds=frames)
def channel_frames(raw):
    """Lengths, forms, refusals and several messages in one stream."""
    received(raw, Hello | Stream | End)


@target(PartyError, seeds=lambda: examples.wire(examples.PSI))
def psi_messages(raw):
    first(raw, Hello | Stream | End)


@target(PartyError, seeds=lambda: examples.wire(examples.LINKER_REQUESTS))
def linker_requests(raw):
    """A request; of an upload, rows of zeros beside it, as `unpack` gets them."""
    request = first(raw, TableHeader | Query | StatusRequest)
    if isinstance(request, TableHeader) and max(request.rows, *request.columns.values(), 0) < 256:
        labels = {name: ascending(size) for name, size in request.columns.items()}
        unpack(request, labels, np.zeros((request.rows, request.width), np.uint8))


def ascending(count: int) -> np.ndarray:
    """Tokens of a column, as many as are announced."""
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None], TOKEN_WIDTH, axis=1)


@target(PartyError, seeds=lambda: examples.wire(examples.LINKER_ANSWERS))
def linker_answers(raw):
    answer = first(raw, LinkerAnswer | Status | Receipt)
    if isinstance(answer, LinkerAnswer):
        answer.table(examples.LINK_KEY)


@target(PartyError, seeds=lambda: examples.wire(examples.SERVICE_REQUESTS))
def service_requests(raw):
    """A request to a party of the service; what it holds is hashed, and numbers are read."""
    request = first(raw, service.AnyRequest)
    if task := getattr(request, "task", None):
        use(task)
    for name in ("points", "check_values"):
        service.as_numbers(getattr(request, name, ()))
    for head in getattr(request, "heads", ()):
        log.verify_signature(examples.SIGNER.public, head.signed, head.signature)


def use(task):
    """What every receiver does with a task."""
    if not isinstance(task, str):
        assert len(task.sha256) == 64
        task.expired()
        _ = task.warnings, task.epsilon_text, [c.largest for c in task.inputs[0].schema.values()]


ANSWERS = {kind.__name__: kind for kind in (type(answer) for answer in examples.SERVICE_ANSWERS)}


def answers() -> list[bytes]:
    """Each begins with the name of the type that its receiver waits for."""
    return [
        type(answer).__name__.encode() + b"\n" + msgspec.json.encode(answer)
        for answer in examples.SERVICE_ANSWERS
    ]


@target(PartyError, seeds=answers)
def service_answers(raw):
    name, _, payload = raw.partition(b"\n")
    answer = first(payload, ANSWERS.get(name.decode("latin-1"), service.LogCopy))
    if isinstance(answer, service.LogCopy):
        log.verify(answer.entries, "pp-1", answer.public, [examples.HEAD])
    if signed := getattr(answer, "signed", b""):
        log.verify_signature(examples.SIGNER.public, signed, answer.signature)


@target(PartyError, seeds=lambda: [session._pack_cell(t) for t in ("LOW", "", "é" * 20)])
def psi_cells(raw):
    session._unpack_cell(raw[:64].ljust(64, b"\0"))


# --- logs, tasks and kept state -------------------------------------------------------------------


@target(PartyError, seeds=lambda: [examples.log_file(), examples.log_file()[:-20]])
def signed_log(raw):
    """A party's log file at its start, torn end and all, and as another party verifies it."""
    entries = log.SignedLog(examples.SIGNER, file(raw, "log.jsonl")).entries
    log.verify(entries, "pp-1", examples.SIGNER.public)


@target(PartyError, seeds=lambda: [msgspec.json.encode(examples.QUERY_ENTRY) + b"\n"])
def query_log(raw):
    read = QueryLog.open(file(raw, "queries.jsonl"))
    assert read.spent() >= 0
    read.answered(exactly=True)


@target(PartyError, seeds=lambda: [msgspec.json.encode(examples.TASK)])
def task_terms(raw):
    """Terms as a user writes them: JSON that becomes a task."""
    try:
        terms = msgspec.json.decode(raw, type=dict)
    except (ValueError, RecursionError):
        return  # not this decoder's
    use(read_task(terms))


def kept_states() -> list[bytes]:
    rows = np.array([1, 5, 7])
    links = (
        Link(party="a", peer="b", session=b"s" * 16, link_key=b"k" * 32, rows=r)
        for r in (rows, None)
    )
    return [commands._pack_state(link, ["id"]) for link in links]


@target(PartyError, seeds=kept_states)
def psi_kept_state(raw):
    link, _ = commands._unpack_state(file(raw, "session"))
    commands._pack_state(link, ["id"])


# --- tables ---------------------------------------------------------------------------------------


def tables() -> list[bytes]:
    cases = Path(__file__).parents[1] / "cases"
    odd = ['"a";b\n1;"x\ny"\n', "n,d\n1,2024-01-31\n,31.12.2023\n", "a\tb\n1.234,5\t€ 3\n:\t-\n"]
    return [*(t.encode() for t in odd), *(p.read_bytes() for p in sorted(cases.glob("*.csv")))]


@target(DataError, seeds=tables)
def table_reader(raw):
    reading = read_table(raw, name="t.csv")
    assert len(reading.frame) == len(reading.text) == len(reading.lines)
    reading.table()


@target(
    ValueError, seeds=lambda: [b"score,member\n0.5,1\n-1e3,no\n", b"score;member\n0,5;true\n1;0\n"]
)
def mia_scores(raw):
    members, others = read_scores(file(raw, "scores.csv"))
    assert np.isfinite(members).all()
    assert np.isfinite(others).all()


# --- homomorphic and masked contributions ---------------------------------------------------------


@target(PaillierError, seeds=lambda: [examples.ciphertexts().to_bytes()])
def paillier_ciphertexts(raw):
    """A ciphertext under a key, decrypted as its holder would."""
    key = examples.paillier_key()
    read = key.public.read(raw)
    assert read.to_bytes() == raw, "another text of the same ciphertext"
    key.decrypt(read)


@target(PaillierError, seeds=lambda: [examples.paillier_key().to_secret_bytes()])
def paillier_key_file(raw):
    PrivateKey.from_secret_bytes(raw)


def parts(raw: bytes) -> list[bytes]:
    """A message of a few byte strings, in one."""
    try:
        return msgspec.msgpack.decode(raw, type=list[bytes])
    except (ValueError, RecursionError):
        return [raw]


@functools.cache
def schemes() -> dict:
    key, packing = examples.paillier_key(), examples.ciphertexts().packing
    return {
        "plain": aggregation.Plain(12),
        "paillier": aggregation.Paillier(14, key.public, packing, key, 2, "fresh"),
    }


def contributions(name: str) -> list[bytes]:
    scheme = schemes()[name]
    weights = np.linspace(-0.5, 0.5, scheme.parameters)
    return [msgspec.msgpack.encode(scheme.encrypt(weights, 0.5))]


def average(scheme, raw: bytes):
    message = parts(raw)
    try:
        scheme.check(message)
        total = scheme.add([message, message])
    except aggregation.Rejected:
        scheme.decrypt(message, 1.0)  # an office gets the same bytes from a server that lies
        raise
    assert np.isfinite(scheme.decrypt(total, 1.0)).all()


@target(aggregation.Rejected, seeds=lambda: contributions("plain"))
def plain_contribution(raw):
    average(schemes()["plain"], raw)


@target(aggregation.Rejected, seeds=lambda: contributions("paillier"))
def paillier_contribution(raw):
    average(schemes()["paillier"], raw)


@functools.cache
def ckks():
    return aggregation.Ckks.generate(10)


@target(
    aggregation.Rejected,
    seeds=lambda: [msgspec.msgpack.encode(ckks().encrypt(np.linspace(-1, 1, 10), 0.5))],
)
def ckks_contribution(raw):
    average(ckks(), raw)


def office(index: int) -> masking.MaskingOffice:
    """An office with fixed keys, before its first trip."""
    keys = (X25519PrivateKey.from_private_bytes(bytes([k + index]) * 32) for k in (10, 20))
    return masking.MaskingOffice(3, 2, index, bytes([index]) * 32, *keys)


def masked_round() -> list[bytes]:
    """A round of three offices, of which the third sends no vector: what comes to 1 and server."""
    offices = {i: office(i) for i in (1, 2, 3)}
    keys = {i: o.advertise() for i, o in offices.items()}
    wrapped = {i: o.share(keys) for i, o in offices.items()}
    for i, o in offices.items():
        o.receive({j: sent[i] for j, sent in wrapped.items() if j != i})
    values = np.arange(4, dtype=np.uint32)
    vectors = [offices[i].mask(values).astype("<u4").tobytes() for i in (1, 2)]
    answers = [sorted(offices[i].reveal([1, 2]).items()) for i in (1, 2)]
    shares = [raw for answer in answers for _, (_, raw) in answer]
    sent = [*keys[2], *keys[3], wrapped[2][1], wrapped[3][1], *vectors, *shares]
    return [msgspec.msgpack.encode(sent)]


@target(masking.MaskingError, seeds=masked_round)
def masking_messages(raw):
    """Strangers' keys and shares to an office; keys, vectors and shares to a server."""
    given = [*parts(raw), *[b""] * 14]
    one, server = office(1), masking.MaskingServer(3, 2, 4)
    public = {1: one.advertise(), 2: (given[0], given[1]), 3: (given[2], given[3])}
    for number, keys in public.items():
        server.keys(number, keys)
    refused = None
    try:
        one.share(server.public)
        one.receive({2: given[4], 3: given[5]})
        one.mask(np.arange(4, dtype=np.uint32))
    except masking.MaskingError as error:
        refused = error
    for number in (1, 2):
        server.vector(number, given[5 + number])
    server.survivors()
    for number in (1, 2):
        raws = given[5 + 3 * number :]
        shares = {1: ("seed", raws[0]), 2: ("seed", raws[1]), 3: ("key", raws[2])}
        server.answer(number, shares)
    server.total()
    if refused:
        raise refused


# --- the workbench's own files --------------------------------------------------------------------


def printed_tables() -> list[bytes]:
    shipped = sorted(published.PACKAGED.rglob("*.toml"), key=lambda p: p.stat().st_size)
    return [path.read_bytes() for path in shipped[:8]]


@target(published.PublishedError, seeds=printed_tables)
def published_toml(raw):
    (table,) = published.load(file(raw, "table.toml"))
    for cell in table.cells:
        _ = cell.interval, cell.conditions, [table.cause(cell, r) for r in table.readings]


def run_records() -> list[bytes]:
    spec = runs.RunSpec.of("primers/x", {"seed": 1, "epsilon": 0.5})
    known = {"seed": 1, "started": examples.TIME, "data": [{"name": "student"}]}
    hashes = {"rows.parquet": examples.HASH}
    states = [("done", {"hashes": hashes}), ("failed", {"error": {"name": "E", "value": "x"}})]
    return [
        msgspec.json.encode(
            runs.RunRecord(
                notebook=spec.notebook,
                run_id=spec.run_id,
                parameters=spec.parameters,
                state=state,
                **known,
                **more,
            ).to_json()
        )
        for state, more in states
    ]


@target(WorkbenchError, seeds=run_records)
def run_record(raw):
    """run.json: a record, or None where it cannot be read."""
    record = runs.load(file(raw, runs.RECORD).parent)
    if record is None:
        raise WorkbenchError("No record, said by None.")
    _ = record.ok, record.problem, record.path
    assert record.state in runs.STATES


PARAMETERS = """
epsilon: float = 0.5  # the budget
seed: int = 1
sizes: list[int] = [10, 100]
names: list[str] = ["a"]
shuffle: bool = True
rates = [0.1, 2]
"also a docstring"
label = "x"
out: str = ""
"""


@target(WorkbenchError, seeds=lambda: [PARAMETERS.encode(), b'out = ""\nn = -1'])
def parameters_cell(raw):
    for parameter in notebooks.parse_cell(raw.decode("utf-8", "replace")).values():
        assert notebooks.convert(parameter.type, parameter.default) == parameter.default


@functools.cache
def declared():
    return notebooks.parse_cell(PARAMETERS)


def items(raw: bytes) -> list[str]:
    """Overrides as a command line gives them, one a line."""
    return raw.decode("utf-8", "surrogateescape").split("\n")


TEXTS = [b"epsilon=1e-3", b"seed=7\nshuffle=False", b"sizes=[1, 2]\nnames=a, b", b"rates=0.5,1"]


@target(WorkbenchError, seeds=lambda: TEXTS)
def parameters_text(raw):
    """Typed, checked, and made the identity of a run."""
    values = notebooks.parse(declared(), items(raw))
    runs.RunSpec.of("primers/x", notebooks.check(declared(), values))


@target(WorkbenchError, seeds=lambda: [b"epsilon=1,10", b"sizes=1,2;3\nseed=1,2"])
def parameters_grid(raw):
    notebooks.parse_grid(declared(), items(raw))


# --- mutants --------------------------------------------------------------------------------------

DEEP = (b"[" * 3000, b"[" * 700 + b"]" * 700, b'{"a":' * 300 + b"1" + b"}" * 300)
LONG = (b"9" * 5000, b"-0x" + b"f" * 5000)
BITS = (b'"', b"null", b"1e999", b"NaN", b"{", b"\xff", b"\0", b"-", b"\\ud800", *DEEP, *LONG)
"""What parsers trip over: put in by mutation."""


def mutate(rng, raw: bytes) -> bytes:
    """One hostile variant: flipped, cut, stretched, spliced, repeated."""
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        at, how = rng.randrange(len(raw) + 1), rng.randrange(7)
        if how == 0 and raw:
            raw[min(at, len(raw) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del raw[at:]
        elif how == 2:
            raw[at:at] = rng.randbytes(rng.randint(1, 20))
        elif how == 3:
            raw[at : at + rng.randint(0, 8)] = rng.choice(BITS)
        elif how == 4:
            end = rng.randint(at, len(raw))
            raw[at:at] = raw[at:end]
        elif how == 5:
            del raw[at : at + rng.randint(1, 20)]
        elif raw:  # a value in its place: what stands between two signs becomes another
            ends = [-1, *(i for i, c in enumerate(raw) if c in b':,[{="\n '), len(raw)]
            i = rng.randrange(len(ends) - 1)
            raw[ends[i] + 1 : ends[i + 1]] = rng.choice(BITS)
    return bytes(raw)

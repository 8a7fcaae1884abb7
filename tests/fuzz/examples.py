"""One message of every kind that crosses a wire or lies in a log, the same at every call.

They are what the fuzz targets start from and what the frozen vectors hold. Keys are constants, so
they protect nothing.
"""

import functools
from decimal import Decimal

import gmpy2
import msgspec
from gmpy2 import mpz
from msgspec.structs import replace

from pet_lab import paillier
from pet_lab.mpc import messages as service
from pet_lab.mpc.catalogue import PublicFacts
from pet_lab.mpc.policy import Approval
from pet_lab.mpc.tasks import ColumnSchema, DataRef, Task
from pet_lab.parties.channel import Refusal
from pet_lab.parties.log import Head, SignedEntry, Signer, _start
from pet_lab.psi.disclosure import QueryEntry
from pet_lab.psi.linker import LinkerAnswer, Query
from pet_lab.psi.messages import End, Hello, Stream
from pet_lab.psi.service import Receipt, Status, StatusRequest
from pet_lab.psi.tokens import ColumnCipher, TableHeader

SIGNER = Signer("pp-1", bytes(range(32)))
SESSION = bytes(range(16))
TIME = "2026-01-31T12:00:00.000+00:00"
HASH = "ab" * 32


def signed(record):
    """The record with the signature of `SIGNER` over what it signs."""
    return replace(record, signature=SIGNER.sign(record.signed))


ENTRY = signed(SignedEntry(0, TIME, "approved", {"task": HASH, "epsilon": "0.5"}, _start("pp-1")))
NEXT_ENTRY = signed(SignedEntry(1, TIME, "witnessed", {"n": 3, "party": "é"}, ENTRY.sha256))
HEAD = signed(Head("pp-1", 1, ENTRY.sha256))
APPROVAL = signed(Approval("pp-1", HASH))
SCHEMA = {
    "id": ColumnSchema(kind="key"),
    "region": ColumnSchema(kind="category", levels=("north", "süd")),
    "income": ColumnSchema(kind="number", decimals=2, low=-500, high=5000),
}
TASK = Task(
    function="joined_statistics",
    parameters={"key": "id", "join": "opened", "group": "region", "bounds": ["1", "2"], "n": 2},
    inputs=(
        DataRef(owner="px", schema=SCHEMA, rows=24, commitments=("00", "01", "02")),
        DataRef(owner="py", schema=SCHEMA, rows=30, commitments=("0a", "0b", "0c")),
    ),
    output_party="pz",
    processing_parties=("pp-1", "pp-2", "pp-3"),
    epsilon=Decimal("0.25"),
    expires=TIME,
    nonce="00ff",
)
JUSTIFY = service.Justify(HASH, "px", ("1f",), ("2e",), "ab")
OPENING = service.Opening(task=HASH, owner="px", party="pp-1", fits=False, share=b"s", salt=b"t")
QUERY = Query(session=SESSION, group_by=("cbs.example:band", "statcan.example:region"))

LINK_KEY = bytes(range(100, 132))


def tokens(name: str, *labels: str) -> tuple[bytes, ...]:
    """Labels of a column as a linker sees them."""
    party, column = name.split(":")
    cipher = ColumnCipher(LINK_KEY)
    return tuple(cipher.encrypt(label, party=party, column=column) for label in labels)


PSI = [
    Hello(
        engine="ecdh",
        variant="psi",
        role="initiator",
        party="statcan.example",
        peer="cbs.example",
        size=3,
        on=("id",),
        columns=("région",),
        parameters={"bits": 3072, "group": "curve25519"},
        nonce=b"n" * 32,
        share=b"s" * 32,
    ),
    Stream(kind="blinded", session=SESSION, number=1, width=32, count=3),
    End(kind="blinded", count=3, digest=b"d" * 32),
]
LINKER_REQUESTS = [
    TableHeader(
        session=SESSION,
        party="statcan.example",
        peer="cbs.example",
        rows=40,
        columns={"region": 3, "band": 2},
        shares=("income",),
        part=1,
        public=("region",),
        bound=10_000,
    ),
    QUERY,
    replace(QUERY, measure="total", value="cbs.example:income"),
    StatusRequest(SESSION),
]
LINKER_ANSWERS = [
    LinkerAnswer(
        query=QUERY,
        labels=(tokens(QUERY.group_by[0], "low", "high"), tokens(QUERY.group_by[1], "nord")),
        values=(12, None),
        epsilon=0.5,
    ),
    Status(True),
    Receipt(-1),
]
SERVICE_REQUESTS = [
    service.Describe(),
    service.Prepare(TASK, ("1f", "0")),
    service.HandIn(TASK, (APPROVAL,)),
    service.Withdraw("00ff"),
    service.Propose(TASK),
    service.Deposit(HASH, b"share", b"salt"),
    service.Open(HASH, (APPROVAL,)),
    service.Compare(HASH, ("1f",)),
    service.Finish(HASH),
    service.Done(HASH, True, "over", (HEAD,)),
    JUSTIFY,
    service.Accuse(JUSTIFY, signed(OPENING)),
    service.SendLog(),
    service.SendHead(),
]
SERVICE_ANSWERS = [
    service.Accepted(HEAD),
    service.Description(24, SCHEMA),
    service.Prepared(TASK.inputs[0], ("2e",), "ab"),
    service.Checked({"px": ("2e",), "py": ()}),
    service.Finished(
        service.SignedShares(HASH, "pp-1", PublicFacts((1,)), ("ff", "0"), "ab"), "cd", HEAD
    ),
    service.LogCopy((ENTRY, NEXT_ENTRY), SIGNER.public),
    signed(OPENING),
    APPROVAL,
]
REFUSAL = Refusal("PeerLost", "pp-2 sent nothing for 30 s.", ("pp-2",))
QUERY_ENTRY = QueryEntry(TIME, "px", SESSION.hex(), {"group_by": ["a:b"]}, "answered", epsilon=0.5)
LOG_ENTRIES = [ENTRY, NEXT_ENTRY, HEAD, QUERY_ENTRY]


@functools.cache
def paillier_key() -> paillier.PrivateKey:
    """A 256-bit key of two fixed primes."""
    p, q = gmpy2.next_prime(mpz(2) ** 127 + 2**90), gmpy2.next_prime(mpz(3) << 126)
    return paillier.PrivateKey(p, q, base=pow(mpz(5), p * q, (p * q) ** 2))


@functools.cache
def ciphertexts() -> paillier.Ciphertexts:
    """Twelve encrypted values with fixed noise."""
    key = paillier_key().public
    packing = paillier.Packing(key_bits=key.bits, max_terms=4, limit=1.0)
    plaintexts = packing.encode([i / 16 - 0.25 for i in range(12)])
    noise = [pow(mpz(7 + i), key.n, key.n_squared) for i in range(len(plaintexts))]
    values = [(1 + key.n * m) * r % key.n_squared for m, r in zip(plaintexts, noise, strict=True)]
    return paillier.Ciphertexts(key.id, packing, 12, 1, tuple(values))


def log_file() -> bytes:
    """A log of two entries, as it lies on disk."""
    return b"".join(msgspec.json.encode(e) + b"\n" for e in (ENTRY, NEXT_ENTRY))


def wire(messages) -> list[bytes]:
    """The messages as they travel."""
    return [msgspec.json.encode(message) for message in messages]

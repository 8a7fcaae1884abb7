"""SIMULATED attested enclave: the protocol of attestation and key release, without the hardware.

Nothing here hides memory: `Platform` and `Enclave` are ordinary objects, and whoever runs this
process reads them. What is real is what the others see: measurements (SHA-256), quotes (Ed25519,
with an X.509 chain to the maker of the hardware), key release (X25519, HKDF, AES-GCM), sealed data
with versions. It follows the remote attestation of Intel SGX in outline, not in its formats.
"""

from __future__ import annotations

import datetime
import inspect
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pet_lab.checks import require
from pet_lab.parties.errors import Refused
from pet_lab.parties.log import Signer, canonical, digest, verify_signature

Program = Callable[[Mapping[str, bytes]], bytes]
Hex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
MOST_BYTES = 16_384  # of a quote


class Code(msgspec.Struct, frozen=True):
    """What an author releases: the measurement of a program, a version, the author's signature."""

    measurement: Hex
    version: Annotated[int, msgspec.Meta(ge=1)]
    author: Hex
    signature: str = ""

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return canonical([self.measurement, self.version, self.author])


class Quote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a platform says of an enclave: its code, its public key, the challenge; signed."""

    code: Code
    nonce: Hex
    public: Hex
    certificate: str  # of the platform, PEM
    signature: str = ""

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return canonical([self.code, self.nonce, self.public, self.certificate])


def measure(program: Program) -> str:
    """SHA-256 of a program's source text, as hex; libraries that it calls are not in it."""
    return digest(b"program", inspect.getsource(program).encode())


def release(program: Program, version: int, author: Signer) -> Code:
    """The program as its author signs it."""
    code = Code(measure(program), version, author.public)
    return msgspec.structs.replace(code, signature=author.sign(code.signed))


def encrypt(key: bytes, data: bytes, about: str = "") -> bytes:
    """AES-256-GCM with a random nonce in front; `about` is authenticated with it."""
    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(key).encrypt(nonce, data, about.encode())


def decrypt(key: bytes, blob: bytes, about: str = "") -> bytes:
    """The inverse; Refused if the bytes were changed, cut off, or are under another key."""
    try:
        return AESGCM(key).decrypt(blob[:12], blob[12:], about.encode())
    except (InvalidTag, ValueError):
        raise Refused("Encrypted data were changed, or are not under this key.") from None


def _derived(secret: bytes, about: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=None, info=about.encode()).derive(secret)


def _agreed(own: X25519PrivateKey, public: bytes) -> bytes:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Refused("A public key is cut off or of small order.") from None
    return _derived(shared, "release")


class Maker:
    """The maker of the hardware: everybody trusts its root certificate."""

    def __init__(self, name: str = "simulated hardware maker") -> None:
        self._key, self._name = Ed25519PrivateKey.generate(), _named(name)
        self.root = _certificate(self._key, self._name, self._key.public_key(), self._name, 3650)

    def platform(self, *, days: float = 365) -> Platform:
        """A new platform with a key that this maker certifies; negative days have passed."""
        key = Ed25519PrivateKey.generate()
        name = _named("simulated platform")
        certificate = _certificate(self._key, self._name, key.public_key(), name, days)
        return Platform(key, certificate.public_bytes(Encoding.PEM).decode())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    signer: Ed25519PrivateKey, issuer: x509.Name, public: Any, subject: x509.Name, days: float
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
    dated = builder.not_valid_before(until - datetime.timedelta(days=abs(days) + 1))
    return dated.not_valid_after(until).sign(signer, None)


class Platform:
    """One simulated processor: a certified key for quotes, a secret for sealing, counters."""

    def __init__(self, key: Ed25519PrivateKey, certificate: str) -> None:
        self._key, self.certificate = key, certificate
        self._secret, self.counters = secrets.token_bytes(32), dict[str, int]()

    def start(self, program: Program, code: Code) -> Enclave:
        """An enclave that runs this program; Refused if its author did not sign it so."""
        valid = verify_signature(code.author, code.signed, code.signature)
        require(valid, "The code does not carry its author's signature.", Refused)
        require(measure(program) == code.measurement, "The program is not the signed one.", Refused)
        return Enclave(self, program, code)

    def sign(self, quote: Quote) -> Quote:
        """The quote, signed."""
        return msgspec.structs.replace(quote, signature=self._key.sign(quote.signed).hex())

    def sealing_key(self, code: Code, version: int) -> bytes:
        """The key of an author's data on this platform, for a version up to the caller's own."""
        older = f"Sealed by version {version}; version {code.version} may not read what is newer."
        require(version <= code.version, older, Refused)
        return _derived(self._secret, f"seal {code.author} {version}")


class Enclave:
    """A program on a platform. Its private key and what it decrypts exist only here (simulated)."""

    def __init__(self, platform: Platform, program: Program, code: Code) -> None:
        self.platform, self.code, self._program = platform, code, program
        self._key, self._keys = X25519PrivateKey.generate(), dict[str, bytes]()

    def quote(self, nonce: str) -> bytes:
        """The answer to a challenge, as it travels."""
        public = self._key.public_key().public_bytes_raw().hex()
        bare = Quote(self.code, nonce, public, self.platform.certificate)
        return msgspec.json.encode(self.platform.sign(bare))

    def accept(self, party: str, wrapped: bytes) -> None:
        """Take the key of a party's data; Refused if it was wrapped for another enclave."""
        self._keys[party] = decrypt(_agreed(self._key, wrapped[:32]), wrapped[32:], party)

    def run(self, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
        """Decrypt, compute, and encrypt the output for each party that released a key."""
        absent = sorted(set(self._keys) ^ set(inputs))
        require(not absent, f"Data or key are missing of {', '.join(absent)}.", Refused)
        clear = {p: decrypt(self._keys[p], blob, f"{p} input") for p, blob in inputs.items()}
        output = self._program(clear)
        return {p: encrypt(key, output, f"{p} output") for p, key in self._keys.items()}

    def seal(self, data: bytes) -> bytes:
        """Encrypt data for later, for this author's programs of this version or newer, here."""
        author, version = self.code.author, self.code.version
        counter = self.platform.counters[author] = self.platform.counters.get(author, 0) + 1
        head = msgspec.json.encode([version, counter])
        key = self.platform.sealing_key(self.code, version)
        return head + b"\n" + encrypt(key, data, head.decode())

    def unseal(self, blob: bytes) -> bytes:
        """The sealed data; Refused if newer than the program, foreign, or not the latest."""
        head, _, body = blob.partition(b"\n")
        try:
            version, counter = msgspec.json.decode(head, type=tuple[int, int])
        except msgspec.MsgspecError:
            raise Refused("Sealed data are cut off or malformed.") from None
        data = decrypt(self.platform.sealing_key(self.code, version), body, head.decode())
        latest = self.platform.counters.get(self.code.author, 0)
        old = f"State {counter} was put back, the latest is {latest}."
        require(counter == latest, old, Refused)
        return data


@dataclass
class Verifier:
    """What a party accepts: a maker's root, one measurement, its author, a least version."""

    root: x509.Certificate
    measurement: str
    author: str
    least_version: int = 1
    _open: set[str] = field(default_factory=set)

    def challenge(self) -> str:
        """A fresh nonce; it answers for one quote."""
        nonce = secrets.token_hex(32)
        self._open.add(nonce)
        return nonce

    def check(self, raw: bytes) -> Quote:
        """The quote, if everything about it is as expected; else Refused says what is not."""
        require(len(raw) <= MOST_BYTES, f"A quote has at most {MOST_BYTES} bytes.", Refused)
        try:
            quote = msgspec.json.decode(raw, type=Quote)
            certificate = x509.load_pem_x509_certificate(quote.certificate.encode())
            key = certificate.public_key().public_bytes_raw().hex()  # type: ignore[union-attr]
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise Refused("The quote is cut off or malformed.") from None
        try:
            certificate.verify_directly_issued_by(self.root)
        except (ValueError, TypeError, InvalidSignature):
            raise Refused("The platform's certificate is not of the maker we trust.") from None
        now, lasts = datetime.datetime.now(datetime.UTC), certificate.not_valid_after_utc
        starts = certificate.not_valid_before_utc
        require(starts <= now <= lasts, "The platform's certificate is not valid today.", Refused)
        signed = verify_signature(key, quote.signed, quote.signature)
        require(signed, "The quote is not signed by its platform.", Refused)
        code = quote.code
        require(code.measurement == self.measurement, "Other code than agreed is running.", Refused)
        require(code.author == self.author, "The code is signed by another author.", Refused)
        old = f"Version {code.version} is older than {self.least_version}."
        require(code.version >= self.least_version, old, Refused)
        fresh = quote.nonce in self._open
        require(fresh, "The quote answers no open challenge of ours: replayed or wrong.", Refused)
        self._open.discard(quote.nonce)
        return quote


class Participant:
    """A party with data, and a key for them that it releases to the agreed code alone."""

    def __init__(self, name: str, data: bytes, verifier: Verifier) -> None:
        self.name, self.verifier, self._key = name, verifier, secrets.token_bytes(32)
        self.upload = encrypt(self._key, data, f"{name} input")

    def wrap(self, raw_quote: bytes) -> bytes:
        """The key for the enclave of this quote, after checking it."""
        quote, own = self.verifier.check(raw_quote), X25519PrivateKey.generate()
        key = _agreed(own, bytes.fromhex(quote.public))
        return own.public_key().public_bytes_raw() + encrypt(key, self._key, self.name)

    def read(self, output: bytes) -> bytes:
        """The output."""
        return decrypt(self._key, output, f"{self.name} output")


@dataclass(frozen=True)
class Session:
    """What came of a computation inside: the output, bytes sent by kind, and all the host saw."""

    output: bytes
    sizes: Mapping[str, int]
    seen: bytes = field(repr=False)


def compute(program: Program, data: Mapping[str, bytes]) -> Session:
    """The whole protocol between parties with data and one enclave; all get the same output."""
    author, maker = Signer("author"), Maker()
    code = release(program, 1, author)
    enclave = maker.platform().start(program, code)
    quotes, wrapped, uploads, parties = b"", b"", dict[str, bytes](), list[Participant]()
    for name, clear in data.items():
        verifier = Verifier(maker.root, code.measurement, author.public)
        party = Participant(name, clear, verifier)
        quote = enclave.quote(verifier.challenge())
        key = party.wrap(quote)
        enclave.accept(name, key)
        uploads[name] = party.upload
        quotes, wrapped = quotes + quote, wrapped + key
        parties.append(party)
    outputs = enclave.run(uploads)
    kinds = {"quotes": quotes, "keys": wrapped, "data": b"".join(uploads.values())}
    kinds["outputs"] = b"".join(outputs.values())
    answers = {party.read(outputs[party.name]) for party in parties}
    require(len(answers) == 1, "Parties got different outputs.", Refused)
    sizes = {kind: len(blob) for kind, blob in kinds.items()}
    return Session(answers.pop(), sizes, b"".join(kinds.values()))

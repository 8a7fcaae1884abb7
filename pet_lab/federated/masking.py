"""Pairwise masking: the server learns the sum of the offices that stayed, and nothing else.

K. Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning" (CCS
2017), the version against a server that follows the protocol. Office u sends

    x_u + PRG(b_u) + sum over v > u of PRG(s_uv) - sum over v < u of PRG(s_uv)    modulo 2^32

with s_uv from X25519 and the PRG AES-256 in counter mode. All others hold Shamir shares of b_u and
of u's secret key. After the masked vectors are in, they reveal b_u of each office that sent one and
the key of each that did not: never both of the same office.

Offices are numbered 1 to n, agreed before the round: Shamir's share at 0 would be the secret, and
an invented office one more holder of shares. Both sides refuse any other number, and whatever comes
a second time. That the keys under a number are that office's is for the channel to prove.
"""

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import ArrayLike, NDArray

from pet_lab.checks import require
from pet_lab.federated.aggregation import Rejected
from pet_lab.paillier import Grid, PaillierError
from pet_lab.shares import ShareError, shamir_join, shamir_split

PRIME = 2**256 + 297  # the smallest prime above all 32-byte secrets
_SHARE_BYTES = 33


class MaskingError(Rejected):
    """The protocol cannot go on, or must not."""


_require = partial(require, error=MaskingError)


@dataclass(frozen=True, kw_only=True)
class Quantiser(Grid):
    """Real numbers as integers modulo 2^32, so that sums of up to `max_terms` stay readable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = f"{self.value_bits} bits and {self.max_terms} terms"
        _require(self.sum_bits <= 32, f"{size} do not fit the ring of 32 bits.")

    def encode(self, values: ArrayLike) -> NDArray[np.uint32]:
        """Shape (count,) to the same; MaskingError if not finite or beyond the limit."""
        try:
            return self.quantise(values).astype(np.uint32)
        except PaillierError as error:
            raise MaskingError(str(error)) from None

    def decode(self, total: NDArray[np.uint32], terms: int) -> NDArray[np.float64]:
        """The sum as real numbers; MaskingError if it is more than `terms` values can make."""
        signed = total.astype(np.int32).astype(np.int64)
        for i in np.flatnonzero(np.abs(signed) > terms * self.half)[:1]:
            raise MaskingError(
                f"The sum at {i} is more than {terms} honest values can make: an office sent a "
                "vector out of range or with wrong masks."
            )
        return signed * self.step


Keys = tuple[bytes, bytes]
"""An office's public keys, 32 bytes each: for masks, and for wrapping shares."""


@dataclass
class _Round:
    offices: int
    threshold: int

    def __post_init__(self) -> None:
        n, t = self.offices, self.threshold
        majority = f"The threshold must be more than half of at least 2 offices, got {t} of {n}."
        _require(n >= 2 and n / 2 < t <= n, majority)

    def _known(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            agreed = type(number) is int and 1 <= number <= self.offices
            names = f"Offices are numbered 1 to {self.offices} as agreed before the round"
            _require(agreed, f"{names}, got {number!r}.")


@dataclass
class MaskingOffice(_Round):
    """One office through one round of the protocol; its secrets never leave it unshared.

    offices    how many take part
    threshold  offices needed to unmask: more than half, so that the server cannot get both secrets
               of an office by telling two groups different stories
    index      its number, from 1
    """

    index: int
    _seed: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _mask_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)
    _wrap_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)
    _public: dict[int, Keys] = field(default_factory=dict, repr=False)
    _held: dict[int, bytes] = field(default_factory=dict, repr=False)
    _masked: bool = False
    _answered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._known([self.index])

    def advertise(self) -> Keys:
        """Trip 1: public keys."""
        mask, wrap = self._mask_key.public_key(), self._wrap_key.public_key()
        return mask.public_bytes_raw(), wrap.public_bytes_raw()

    def share(self, public: Mapping[int, Keys]) -> dict[int, bytes]:
        """Trip 2: given everybody's public keys, encrypted shares for each other office.

        The keys must come over authenticated channels: here the caller vouches for them. Answered
        once: under a second list of keys the same secrets would be shared among others too.
        """
        self._known(public)
        _require(not self._public, "Secrets are shared once a round; the server asked again.")
        _require(
            len(public) >= self.threshold and public.get(self.index) == self.advertise(),
            f"Expected keys of at least {self.threshold} offices, mine unchanged among them.",
        )
        different = len({k for keys in public.values() for k in keys}) == 2 * len(public)
        _require(different, "Two offices advertise the same key; one copies the other.")
        self._public = dict(public)
        seeds, keys = (
            _split(secret, sorted(public), self.threshold)
            for secret in (self._seed, self._mask_key.private_bytes_raw())
        )
        self._held[self.index] = seeds[self.index] + keys[self.index]
        out = {}
        for other in public.keys() - {self.index}:
            nonce, cipher = secrets.token_bytes(12), AESGCM(self._wrap(other))
            route = _route(self.index, other)
            out[other] = nonce + cipher.encrypt(nonce, seeds[other] + keys[other], route)
        return out

    def receive(self, wrapped: Mapping[int, bytes]) -> None:
        """Shares that the others made for me; MaskingError if one was tampered with.

        Only before the vector is masked, and one from each: the masks are agreed by these shares.
        """
        late = "The vector is masked already; shares that come later do not count."
        _require(not self._masked, late)
        for other, raw in wrapped.items():
            stranger = f"Shares came from office {other}, which takes no part."
            _require(other in self._public, stranger)
            _require(other not in self._held, f"Shares of office {other} came twice.")
            cipher, route = AESGCM(self._wrap(other)), _route(other, self.index)
            try:
                body = cipher.decrypt(raw[:12], raw[12:], route)
            except (InvalidTag, ValueError):
                body = b""
            damaged = f"The share of office {other} was damaged or is not for office {self.index}."
            _require(len(body) == 2 * _SHARE_BYTES, damaged)
            self._held[other] = body

    def mask(self, quantised: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Trip 3: the vector under all its masks, for the offices whose shares I hold.

        Once: the difference of two vectors under the same masks is open.
        """
        once = "An office masks one vector a round; take a new office for another."
        _require(not self._masked, once)
        few = f"Shares of {len(self._held)} offices are here, {self.threshold} are needed."
        _require(len(self._held) >= self.threshold, few)
        self._masked = True
        out = quantised + _stream(self._seed, quantised.size)
        for other in self._held.keys() - {self.index}:
            pad = _stream(_agreed(self._mask_key, self._public[other][0]), quantised.size)
            out = out + pad if self.index < other else out - pad
        return out

    def reveal(self, survivors: Sequence[int]) -> dict[int, tuple[str, bytes]]:
        """Trip 4: for each office, a share of its seed if it sent a vector, of its key if not.

        Answered once: a second question about other survivors would give away single vectors.
        """
        alive = set(survivors)
        _require(self._masked, "Shares are revealed after the vectors are in, not before.")
        _require(not self._answered, "Shares are revealed once a round; the server asked again.")
        listed = self.index in alive and alive <= set(self._held)
        _require(listed, "The list of survivors must hold me and only offices of this round.")
        few = f"Only {len(alive)} offices sent vectors, below the threshold of {self.threshold}"
        _require(len(alive) >= self.threshold, f"{few}: the round is void.")
        self._answered = True
        return {
            other: ("seed", body[:_SHARE_BYTES]) if other in alive else ("key", body[_SHARE_BYTES:])
            for other, body in self._held.items()
        }

    def _wrap(self, other: int) -> bytes:
        return _agreed(self._wrap_key, self._public[other][1], b"pet_lab shares")


@dataclass
class MaskingServer(_Round):
    """The server through one round: takes one thing of a kind from each office, and unmasks.

    count   length of the vectors
    public  keys by office
    masked  masked vectors by office, as the server sees them
    """

    count: int
    public: dict[int, Keys] = field(default_factory=dict)
    masked: dict[int, NDArray[np.uint32]] = field(default_factory=dict, repr=False)
    _answers: dict[int, Mapping[int, tuple[str, bytes]]] = field(default_factory=dict, repr=False)
    _survivors: tuple[int, ...] = ()

    def keys(self, office: int, keys: Keys) -> None:
        """Trip 1."""
        self._known([office])
        self._once(self.public, office, keys)

    def vector(self, office: int, raw: bytes) -> None:
        """Trip 3: a masked vector, 4 bytes a value, little-endian."""
        self._takes_part(office)
        late = f"The vector of office {office} came after the list of survivors; it does not count."
        _require(not self._survivors, late)
        length = f"Office {office} sent {len(raw) // 4} values, expected {self.count}."
        _require(len(raw) == 4 * self.count, length)
        self._once(self.masked, office, np.frombuffer(raw, "<u4").astype(np.uint32))

    def survivors(self) -> tuple[int, ...]:
        """Trip 4: whose vectors are in. The list is the same from now on, whatever comes later.

        With a vector that came later, the shares of its office's key would be taken for its seed.
        """
        few = f"{len(self.masked)} offices sent vectors, {self.threshold} are needed"
        _require(len(self.masked) >= self.threshold, f"{few}: the round is void.")
        self._survivors = self._survivors or tuple(self.masked)
        return self._survivors

    def answer(self, office: int, shares: Mapping[int, tuple[str, bytes]]) -> None:
        """Trip 4: a survivor's shares, of the kind that was asked for."""
        self._takes_part(office)
        early = "Shares are taken once the list of survivors is final; ask for `survivors` first."
        _require(self._survivors, early)
        for owner, (kind, raw) in shares.items():
            self._takes_part(owner)
            asked = kind == ("seed" if owner in self.masked else "key")
            other = f"Office {office} sent another share of {owner} than asked for."
            _require(asked and len(raw) == _SHARE_BYTES, other)
        self._once(self._answers, office, shares)

    def total(self) -> NDArray[np.uint32]:
        """The sum of the survivors' vectors; MaskingError if too few answered."""
        few = f"{len(self._answers)} offices answered, {self.threshold} are needed to unmask"
        _require(len(self._answers) >= self.threshold, f"{few}: the round is void.")
        total = np.sum(list(self.masked.values()), axis=0, dtype=np.uint32)
        # Whoever left before it shared its secrets is in nobody's masks.
        for owner in sorted(self.masked.keys() | set().union(*self._answers.values())):
            shares = {i: a[owner][1] for i, a in self._answers.items() if owner in a}
            secret = _join(shares, self.threshold)
            if owner in self.masked:
                total = total - _stream(secret, self.count)
                continue
            key = X25519PrivateKey.from_private_bytes(secret)
            own = key.public_key().public_bytes_raw() == self.public[owner][0]
            _require(own, f"The shares of office {owner} do not fit its public key.")
            for other in self.masked:  # masks that the survivors put on for the one who left
                pad = _stream(_agreed(key, self.public[other][0]), self.count)
                total = total - pad if other < owner else total + pad
        return total

    def _takes_part(self, office: int) -> None:
        _require(office in self.public, f"Office {office!r} takes no part in this round.")

    def _once(self, store: dict, office: int, value: Any) -> None:
        _require(office not in store, f"Office {office} sent the same part of the round twice.")
        store[office] = value


@dataclass(frozen=True, kw_only=True)
class MaskedSum:
    """What a round gave and what it cost.

    total                     sum over the survivors, shape (count,)
    survivors                 indices of offices that are in the sum
    office_cpu_s              mean CPU seconds of a surviving office
    server_cpu_s              CPU seconds of the server
    up_bytes, down_bytes      mean bytes that an office sends and receives
    seen                      the masked vectors by office, as the server saw them
    """

    total: NDArray[np.float64]
    survivors: tuple[int, ...]
    office_cpu_s: float
    server_cpu_s: float
    up_bytes: float
    down_bytes: float
    seen: Mapping[int, NDArray[np.uint32]] = field(repr=False)


def aggregate(
    vectors: Sequence[ArrayLike],
    *,
    dies_before_masking: Sequence[int] = (),
    dies_after_masking: Sequence[int] = (),
) -> MaskedSum:
    """One round in one process, every message as bytes; the threshold is the smallest majority.

    Vectors have shape (count,), one per office. The offices listed (from 1) fall silent after
    sharing, or after sending their vector. MaskingError if vectors differ in length or do not fit,
    or too few offices are left.
    """
    k, quantiser = len(vectors), Quantiser(max_terms=len(vectors))
    offices = {i: MaskingOffice(k, k // 2 + 1, i) for i in range(1, k + 1)}
    server = MaskingServer(k, k // 2 + 1, np.size(vectors[0]))
    up, down = 64 * k, 64 * k * k  # the keys, to all
    start = time.process_time()
    for i, o in offices.items():
        server.keys(i, o.advertise())
    wrapped = {i: o.share(server.public) for i, o in offices.items()}
    shares = sum(len(raw) + 4 for sent in wrapped.values() for raw in sent.values())
    for i, o in offices.items():
        o.receive({j: sent[i] for j, sent in wrapped.items() if j != i})
    for i in [i for i in offices if i not in dies_before_masking]:
        raw = offices[i].mask(quantiser.encode(vectors[i - 1])).astype("<u4").tobytes()
        up += len(raw)
        server.vector(i, raw)
    survivors = server.survivors()
    for i in [i for i in survivors if i not in dies_after_masking]:
        answer = offices[i].reveal(survivors)
        up += (_SHARE_BYTES + 5) * len(answer)
        down += 4 * len(survivors)
        server.answer(i, answer)
    office_s = time.process_time() - start
    start = time.process_time()
    values = quantiser.decode(server.total(), len(survivors))
    return MaskedSum(
        total=values,
        survivors=survivors,
        office_cpu_s=office_s / k,
        server_cpu_s=time.process_time() - start,
        up_bytes=(up + shares) / k,
        down_bytes=(down + shares + 4 * server.count * len(survivors)) / k,
        seen=server.masked,
    )


# --- pieces ------------------------------------------------------------------------------------


def _route(sender: int, receiver: int) -> bytes:
    return sender.to_bytes(4, "big") + receiver.to_bytes(4, "big")


def _agreed(key: X25519PrivateKey, other: bytes, label: bytes = b"pet_lab masks") -> bytes:
    try:
        secret = key.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise MaskingError("An office's public key is none: expected 32 bytes of X25519.") from None
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(secret)


def _stream(seed: bytes, count: int) -> NDArray[np.uint32]:
    """AES-256 in counter mode; a key is used for one stream only, so the counter starts at 0."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(4 * count)), dtype="<u4").astype(np.uint32)


def _split(secret: bytes, at: Sequence[int], needed: int) -> dict[int, bytes]:
    """Shamir shares of 32 bytes at the points `at`."""
    shares = shamir_split(int.from_bytes(secret, "big"), at, needed=needed, modulus=PRIME)
    return {x: value.to_bytes(_SHARE_BYTES, "big") for x, value in shares.items()}


def _join(shares: Mapping[int, bytes], needed: int) -> bytes:
    at = {x: int.from_bytes(raw, "big") for x, raw in list(shares.items())[:needed]}
    try:
        secret = shamir_join(at, needed=needed, prime=PRIME)
    except ShareError as error:
        raise MaskingError(str(error)) from None
    _require(secret < 2**256, "The revealed shares do not fit together: one is wrong.")
    return secret.to_bytes(32, "big")

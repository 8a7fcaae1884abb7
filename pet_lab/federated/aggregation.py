"""Adding the offices' weights: in the clear, under Paillier, under CKKS. One interface.

A scheme has two sides. An office encrypts its weights, scaled by its share of the training
windows, and decrypts what comes back. The server checks and adds, and for that it holds
`public_side()` only. Pairwise masking needs more trips than this and lives in `masking`.

What a key holder learns from the server's reply: the sum of the weights times shares as they were
rounded, and how many offices are in it; not how it splits, because the server brings no secret of
its own into it and the noise does not depend on the weights. The sum itself tells more the fewer
offices there are: of two, each subtracts its own weights and holds the other's. And whoever gets
hold of a single contribution, sent as a "sum" by a server that does not follow the protocol,
decrypts that.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pet_lab import paillier
from pet_lab.checks import require
from pet_lab.parties.apart import Apart

Array = NDArray[np.float64]
_NO_KEY = "Only an office decrypts; this side holds no private key."
Message = list[bytes]
"""What travels: a few byte strings."""


class Rejected(ValueError):
    """A contribution that the server or an office cannot accept; the sentence says why."""


@contextmanager
def _rejecting() -> Iterator[None]:
    try:
        yield
    except paillier.PaillierError as error:
        raise Rejected(str(error)) from None


def pack(values: Array) -> bytes:
    """Doubles, little-endian."""
    return np.asarray(values, dtype="<f8").tobytes()


def unpack(raw: bytes, count: int) -> Array:
    """What `pack` wrote; Rejected on a wrong length or a number that is not finite."""
    require(
        len(raw) == 8 * count,
        f"Expected {count} weights in {8 * count} bytes, got {len(raw)} bytes: the model has "
        "another shape, or the message was cut short.",
        Rejected,
    )
    return _bounded(np.frombuffer(raw, dtype="<f8").astype(np.float64))


def _bounded(values: Array, limit: float = np.inf) -> Array:
    for i in np.flatnonzero(~np.isfinite(values))[:1]:
        raise Rejected(f"Weight {i} is {values[i]}: only finite weights are averaged.")
    for i in np.flatnonzero(np.abs(values) > limit)[:1]:
        raise Rejected(f"Weight {i} is {values[i]:.6g}, beyond {limit:g}.")
    return values


@dataclass(frozen=True)
class Scheme(abc.ABC):
    """A way of adding vectors of `parameters` weights; what makes no sense is Rejected."""

    parameters: int
    name: ClassVar[str]

    @abc.abstractmethod
    def encrypt(self, weights: Array, share: float) -> Message:
        """An office's weights times its share, to send; Rejected if not finite or too large."""

    @abc.abstractmethod
    def _read(self, message: Message) -> Any:
        """A message parsed and checked."""

    def check(self, message: Message) -> None:
        """The server's look at one contribution."""
        self._read(message)

    @abc.abstractmethod
    def add(self, messages: Sequence[Message]) -> Message:
        """The server's sum of checked contributions."""

    @abc.abstractmethod
    def decrypt(self, message: Message, total_share: float) -> Array:
        """The average in the clear, shape (parameters,); Rejected if this side has no key."""

    def public_side(self) -> Self:
        """The same scheme without any secret: what a server is given."""
        return self

    def _vector(self, weights: Array) -> Array:
        wanted = f"Expected {self.parameters} weights, got an array of shape {weights.shape}."
        require(weights.shape == (self.parameters,), wanted, Rejected)
        return _bounded(np.asarray(weights, np.float64))


@dataclass(frozen=True)
class Plain(Scheme):
    """Doubles in the clear: the server reads every office's weights.

    rule   combines the weights (offices, parameters) with shares (offices,) into (parameters,);
           None is the weighted mean. Robust rules need the single contributions, so only here.
    """

    rule: Callable[[Array, Array], Array] | None = None
    name = "plain"
    LIMIT: ClassVar[float] = 1e6

    def encrypt(self, weights: Array, share: float) -> Message:
        """The weights as they are, with the share: nothing is hidden."""
        return [struct.pack("<d", share), pack(self._vector(weights))]

    def _read(self, message: Message) -> tuple[float, Array]:
        parts = len(message) == 2 and len(message[0]) == 8
        require(parts, "Expected a share and the weights; the message has other parts.", Rejected)
        (share,) = struct.unpack("<d", message[0])
        require(0 < share <= 1, f"A share is in (0, 1], got {share}.", Rejected)
        return share, _bounded(unpack(message[1], self.parameters), self.LIMIT)

    def add(self, messages: Sequence[Message]) -> Message:
        """The shared sum, or what `rule` makes of the single contributions."""
        shares, stacked = map(np.array, zip(*map(self._read, messages), strict=True))
        if self.rule is None:
            return [pack(shares @ stacked)]
        return [pack(self.rule(stacked, shares) * shares.sum())]

    def decrypt(self, message: Message, total_share: float) -> Array:
        """The average; it was never encrypted."""
        require(len(message) == 1, "Expected one sum of weights.", Rejected)
        return unpack(message[0], self.parameters) / total_share


@dataclass(frozen=True)
class Paillier(Scheme):
    """Packed Paillier; the offices share one key pair, as in the report.

    key             private key, at the offices; None at the server
    encrypted_from  weights from this one on are encrypted, those before travel as doubles: 0 is
                    all, `Network.output_starts` the output layer only
    noise           as in `pet_lab.paillier`
    """

    public: paillier.PublicKey
    packing: paillier.Packing
    key: paillier.PrivateKey | None = field(default=None, repr=False)
    encrypted_from: int = 0
    noise: Literal["fresh", "short"] = "short"
    name = "paillier"

    @classmethod
    def of(
        cls, key: paillier.PrivateKey, parameters: int, *, offices: int, encrypted_from: int = 0
    ) -> Paillier:
        """With packing for sums of `offices`, 24 bits a weight.

        Magnitudes up to 1, of weights times share: weights up to 4 where four offices share evenly.
        """
        packing = paillier.Packing(key_bits=key.public.bits, max_terms=offices, limit=1.0)
        return cls(parameters, key.public, packing, key, encrypted_from)

    def __post_init__(self) -> None:
        at, last = self.encrypted_from, self.parameters - 1
        require(0 <= at <= last, f"encrypted_from is between 0 and {last}, got {at}.")

    def encrypt(self, weights: Array, share: float) -> Message:
        """Packed ciphertexts of the weights from `encrypted_from` on, doubles before."""
        clear, secret = np.split(self._vector(weights) * share, [self.encrypted_from])
        with _rejecting():
            ciphertexts = (self.key or self.public).encrypt(secret, self.packing, noise=self.noise)
        return [pack(clear), ciphertexts.to_bytes()]

    def _read(self, message: Message) -> tuple[Array, paillier.Ciphertexts]:
        parts = len(message)
        require(parts == 2, f"Expected weights and ciphertexts, got {parts} parts.", Rejected)
        clear, secret = (
            unpack(message[0], self.encrypted_from),
            self.parameters - self.encrypted_from,
        )
        with _rejecting():
            ciphertexts = self.public.read(message[1])
        require(
            ciphertexts.count == secret and ciphertexts.packing == self.packing,
            f"Expected {secret} encrypted weights as {self.packing}, got {ciphertexts.count} as "
            f"{ciphertexts.packing}.",
            Rejected,
        )
        return clear, ciphertexts

    def check(self, message: Message) -> None:
        """Rejected unless it is one office's vector under this key and packing."""
        terms = self._read(message)[1].terms
        require(terms == 1, f"One office sends one vector, this claims to be {terms}.", Rejected)

    def add(self, messages: Sequence[Message]) -> Message:
        """Sums of ciphertexts, and of what is in the clear."""
        clear, ciphertexts = zip(*map(self._read, messages), strict=True)
        with _rejecting():
            total = self.public.add(*ciphertexts)
        return [pack(np.sum(clear, axis=0)), total.to_bytes()]

    def decrypt(self, message: Message, total_share: float) -> Array:
        """The average; Rejected without the private key or if an addend ran over."""
        require(self.key, _NO_KEY, Rejected)
        assert self.key is not None
        clear, ciphertexts = self._read(message)
        with _rejecting():
            return np.concatenate([clear, self.key.decrypt(ciphertexts)]) / total_share

    def public_side(self) -> Paillier:
        """Without the private key."""
        return dataclasses.replace(self, key=None)


@dataclass(frozen=True)
class Ckks(Scheme):
    """CKKS by TenSEAL: approximate arithmetic on vectors, one key pair among the offices.

    Ring degree 4096 with 60 + 49 modulus bits: within the 109 bits that the standard tables of
    homomorphicencryption.org allow for 128 bits of security, and enough for sums.

    The server only adds and has no secret of its own in the reply, so a key holder learns from it
    what `decrypt` gives, noise included, and the noise is independent of the weights. It must not
    leave the offices: with the reply and its exact decryption an outsider solves for the secret key
    (B. Li, D. Micciancio, EUROCRYPT 2021).

    Messages are parsed, added and decrypted in a child process: tenseal ends the process over some
    bytes. Before, a message is compared with one of our own: same length, head and scale.
    """

    context: Any = field(repr=False)
    name = "ckks"
    DEGREE: ClassVar[int] = 4096
    SLOTS: ClassVar[int] = 2048
    SCALE: ClassVar[float] = 2.0**40
    LIMIT: ClassVar[float] = 4.0  # larger sums could wrap

    @classmethod
    def generate(cls, parameters: int) -> Ckks:
        """With a fresh key pair."""
        import tenseal as ts

        bits = [60, 49]
        context = ts.context(ts.SCHEME_TYPE.CKKS, cls.DEGREE, coeff_mod_bit_sizes=bits)
        context.global_scale = cls.SCALE
        return cls(parameters, context)

    def encrypt(self, weights: Array, share: float) -> Message:
        """One ciphertext for each 2,048 weights."""
        import tenseal as ts

        values = _bounded(self._vector(weights) * share, self.LIMIT)
        parts = (values[at : at + self.SLOTS] for at in range(0, self.parameters, self.SLOTS))
        return [ts.ckks_vector(self.context, part).serialize() for part in parts]

    @cached_property
    def _own(self) -> list[bytes]:
        """What a message is held against: zeros of ours."""
        return self.encrypt(np.zeros(self.parameters), 0.0)

    @cached_property
    def _parser(self) -> Apart:
        context = self.context.serialize(
            save_secret_key=self.context.has_secret_key(),
            save_galois_keys=False,
            save_relin_keys=False,
        )
        return Apart(f"{__name__}:CkksParser", [context], self._own, refusal=Rejected)

    def _read(self, message: Message) -> Message:
        wanted = len(self._own)
        sentence = f"Expected {wanted} ciphertexts, got {len(message)}."
        require(len(message) == wanted, sentence, Rejected)
        for i, (raw, like) in enumerate(zip(message, self._own, strict=True)):
            alike = len(raw) == len(like) and raw[:23] == like[:23] and raw[-9:] == like[-9:]
            require(alike, _DAMAGED.format(i), Rejected)
        return message

    def check(self, message: Message) -> None:
        """Rejected unless its ciphertexts can be added to zeros of ours."""
        self._parser("check", self._read(message))

    def add(self, messages: Sequence[Message]) -> Message:
        """Sums of ciphertexts."""
        return self._parser("add", *map(self._read, messages))

    def decrypt(self, message: Message, total_share: float) -> Array:
        """The average, off by about 1e-8; Rejected without the secret key."""
        require(self.context.has_secret_key(), _NO_KEY, Rejected)
        (raw,) = self._parser("decrypt", self._read(message))
        values = np.frombuffer(raw, dtype="<f8")
        require(
            np.isfinite(values).all() and np.abs(values).max() <= 2 * self.LIMIT,
            "The decrypted sum is out of range: an addend was encrypted under another key, or was "
            "out of range itself.",
            Rejected,
        )
        return values / total_share

    def public_side(self) -> Ckks:
        """Without the secret key."""
        public = self.context.copy()
        public.make_context_public()
        return dataclasses.replace(self, context=public)


_DAMAGED = "Ciphertext {} is damaged or of another kind."


class CkksParser:
    """What reads messages of others, in a child process: nothing else calls tenseal on them."""

    def __init__(self, context: Sequence[bytes], zeros: Message) -> None:
        import tenseal as ts

        self.context = ts.context_from(context[0])
        self.zeros = [ts.ckks_vector_from(self.context, raw) for raw in zeros]

    def _read(self, message: Sequence[bytes]) -> list[Any]:
        import tenseal as ts

        vectors = []
        for i, (raw, own) in enumerate(zip(message, self.zeros, strict=True)):
            try:
                vector = ts.ckks_vector_from(self.context, raw)
                vector + own  # SEAL looks at some things only when it adds
                kind, own_kind = (
                    [(c.size(), c.scale, c.parms_id()) for c in v.ciphertext()]
                    for v in (vector, own)
                )
            except (ValueError, RuntimeError, TypeError, MemoryError):
                raise Rejected(_DAMAGED.format(i)) from None
            require(kind == own_kind, _DAMAGED.format(i), Rejected)
            vectors.append(vector)
        return vectors

    def check(self, message: Message) -> Message:
        """Nothing, or a refusal."""
        self._read(message)
        return []

    def add(self, *messages: Message) -> Message:
        """Sums, serialised."""
        columns = zip(*map(self._read, messages), strict=True)
        try:
            return [functools.reduce(operator.add, column).serialize() for column in columns]
        except (ValueError, RuntimeError):
            raise Rejected("The ciphertexts cancel out: an addend is no encryption.") from None

    def decrypt(self, message: Message) -> Message:
        """The numbers, as doubles."""
        return [pack(np.concatenate([v.decrypt() for v in self._read(message)]))]

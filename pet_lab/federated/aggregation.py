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

import dataclasses
import functools
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pet_lab import paillier

__all__ = ["Ckks", "Message", "Paillier", "Plain", "Rejected", "Scheme"]

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


class Scheme(Protocol):
    """What every way of adding does."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    @property
    def parameters(self) -> int:
        """Length of the vector of weights."""

    def encrypt(self, weights: NDArray[np.float64], share: float) -> Message:
        """An office's weights times its share, to send; Rejected if not finite or too large."""

    def check(self, message: Message) -> None:
        """The server's look at one contribution; raises Rejected."""

    def add(self, messages: Sequence[Message]) -> Message:
        """The server's sum of checked contributions."""

    def decrypt(self, message: Message, total_share: float) -> NDArray[np.float64]:
        """The average in the clear: shape (parameters,). Rejected if it makes no sense."""

    def public_side(self) -> Scheme:
        """The same scheme without any secret: what a server is given."""


def pack(values: NDArray[np.float64]) -> bytes:
    """Doubles, little-endian."""
    return np.asarray(values, dtype="<f8").tobytes()


def unpack(raw: bytes, count: int) -> NDArray[np.float64]:
    """What `pack` wrote; Rejected on a wrong length or a number that is not finite."""
    if len(raw) != 8 * count:
        raise Rejected(
            f"Expected {count} weights in {8 * count} bytes, got {len(raw)} bytes: the model has "
            "another shape, or the message was cut short."
        )
    values = np.frombuffer(raw, dtype="<f8").astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise Rejected(f"Weight {bad[0]} is {values[bad[0]]}: only finite weights are averaged.")
    return values


def _vector(weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    if weights.shape != (count,):
        raise Rejected(f"Expected {count} weights, got an array of shape {weights.shape}.")
    return unpack(pack(weights), count)


@dataclass(frozen=True)
class Plain:
    """Doubles in the clear: the server reads every office's weights.

    rule   combines the weights (offices, parameters) with shares (offices,) into (parameters,);
           None is the weighted mean. Robust rules need the single contributions, so only here.
    limit  largest magnitude accepted
    """

    parameters: int
    rule: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]] | None = None
    limit: float = 1e6
    name: str = "plain"

    def encrypt(self, weights: NDArray[np.float64], share: float) -> Message:
        """The weights as they are, with the share: nothing is hidden."""
        return [struct.pack("<d", share), pack(_vector(weights, self.parameters))]

    def _read(self, message: Message) -> tuple[float, NDArray[np.float64]]:
        if len(message) != 2 or len(message[0]) != 8:
            raise Rejected("Expected a share and the weights; the message has other parts.")
        (share,) = struct.unpack("<d", message[0])
        if not 0 < share <= 1:
            raise Rejected(f"A share is in (0, 1], got {share}.")
        values = unpack(message[1], self.parameters)
        big = np.flatnonzero(np.abs(values) > self.limit)
        if big.size:
            raise Rejected(f"Weight {big[0]} is {values[big[0]]:.3g}, beyond {self.limit:g}.")
        return share, values

    def check(self, message: Message) -> None:
        """Rejected unless it is a share and finite weights within the limit."""
        self._read(message)

    def add(self, messages: Sequence[Message]) -> Message:
        """The shared sum, or what `rule` makes of the single contributions."""
        read = [self._read(m) for m in messages]
        shares = np.array([s for s, _ in read])
        stacked = np.stack([w for _, w in read])
        if self.rule is None:
            return [pack(shares @ stacked)]
        return [pack(self.rule(stacked, shares) * shares.sum())]

    def decrypt(self, message: Message, total_share: float) -> NDArray[np.float64]:
        """The average; it was never encrypted."""
        if len(message) != 1:
            raise Rejected("Expected one sum of weights.")
        return unpack(message[0], self.parameters) / total_share

    def public_side(self) -> Plain:
        """The same: there is no secret."""
        return self


@dataclass(frozen=True)
class Paillier:
    """Packed Paillier; the offices share one key pair, as in the report.

    encrypted_from  weights from this one on are encrypted, those before travel as doubles: 0 is
                    all, `Network.output_starts` the output layer only
    key             private key, at the offices; None at the server
    noise           as in `pet_lab.paillier`
    """

    parameters: int
    public: paillier.PublicKey
    packing: paillier.Packing
    key: paillier.PrivateKey | None = field(default=None, repr=False)
    encrypted_from: int = 0
    noise: Literal["fresh", "short"] = "short"
    name: str = "paillier"

    @classmethod
    def of(
        cls, key: paillier.PrivateKey, parameters: int, *, offices: int, **more: Any
    ) -> Paillier:
        """With packing for sums of `offices`, 24 bits a weight.

        Magnitudes up to 1, of weights times share: weights up to 4 where four offices share evenly.
        """
        packing = paillier.Packing(key_bits=key.public.bits, max_terms=offices, limit=1.0)
        return cls(parameters, key.public, packing, key, **more)

    def __post_init__(self) -> None:
        if not 0 <= self.encrypted_from < self.parameters:
            raise ValueError(
                f"encrypted_from is between 0 and {self.parameters - 1}, got {self.encrypted_from}."
            )

    @cached_property
    def _mask(self) -> NDArray[np.bool_]:
        mask = np.zeros(self.parameters, bool)
        mask[self.encrypted_from :] = True
        return mask

    def encrypt(self, weights: NDArray[np.float64], share: float) -> Message:
        """Packed ciphertexts of the weights from `encrypted_from` on, doubles before."""
        values = _vector(weights, self.parameters) * share
        encryptor = self.public if self.key is None else self.key
        with _rejecting():
            ciphertexts = encryptor.encrypt(values[self._mask], self.packing, noise=self.noise)
        return [pack(values[~self._mask]), ciphertexts.to_bytes()]

    def _read(self, message: Message) -> tuple[NDArray[np.float64], paillier.Ciphertexts]:
        if len(message) != 2:
            raise Rejected(f"Expected weights and ciphertexts, got {len(message)} parts.")
        secret = int(self._mask.sum())
        clear = unpack(message[0], self.parameters - secret)
        with _rejecting():
            ciphertexts = self.public.read(message[1])
        if ciphertexts.count != secret or ciphertexts.packing != self.packing:
            raise Rejected(
                f"Expected {secret} encrypted weights as {self.packing}, got "
                f"{ciphertexts.count} as {ciphertexts.packing}."
            )
        return clear, ciphertexts

    def check(self, message: Message) -> None:
        """Rejected unless it is one vector under this key and packing."""
        _, ciphertexts = self._read(message)
        if ciphertexts.terms != 1:
            raise Rejected(f"One office sends one vector, this claims to be {ciphertexts.terms}.")

    def add(self, messages: Sequence[Message]) -> Message:
        """Sums of ciphertexts, and of what is in the clear."""
        read = [self._read(m) for m in messages]
        with _rejecting():
            total = self.public.add(*(s for _, s in read))
        return [pack(np.sum([c for c, _ in read], axis=0)), total.to_bytes()]

    def decrypt(self, message: Message, total_share: float) -> NDArray[np.float64]:
        """The average; Rejected without the private key or if an addend ran over."""
        if self.key is None:
            raise Rejected("Only an office decrypts; this side holds no private key.")
        clear, ciphertexts = self._read(message)
        out = np.empty(self.parameters)
        out[~self._mask] = clear
        with _rejecting():
            out[self._mask] = self.key.decrypt(ciphertexts)
        return out / total_share

    def public_side(self) -> Paillier:
        """Without the private key."""
        return dataclasses.replace(self, key=None)


@dataclass(frozen=True)
class Ckks:
    """CKKS by TenSEAL: approximate arithmetic on vectors, one key pair among the offices.

    Ring degree 4096 with 60 + 49 modulus bits: within the 109 bits that the standard tables of
    homomorphicencryption.org allow for 128 bits of security, and enough for sums.

    The server only adds and has no secret of its own in the reply, so a key holder learns from it
    what `decrypt` gives, noise included, and the noise is independent of the weights. It must not
    leave the offices: with the reply and its exact decryption an outsider solves for the secret key
    (B. Li, D. Micciancio, EUROCRYPT 2021).

    A message is compared with one of the server's own before native code parses it: same length,
    head and scale. Parsers of strangers' bytes in this process remain a risk; a deployment would
    put them into one of their own.
    """

    parameters: int
    context: Any = field(repr=False)
    secret: bool = True
    name: str = "ckks"
    limit: float = 4.0

    DEGREE = 4096
    SLOTS = 2048
    SCALE = 2.0**40

    @classmethod
    def generate(cls, parameters: int) -> Ckks:
        """With a fresh key pair."""
        import tenseal as ts

        context = ts.context(
            ts.SCHEME_TYPE.CKKS, poly_modulus_degree=cls.DEGREE, coeff_mod_bit_sizes=[60, 49]
        )
        context.global_scale = cls.SCALE
        return cls(parameters, context)

    def encrypt(self, weights: NDArray[np.float64], share: float) -> Message:
        """One ciphertext for each 2,048 weights."""
        import tenseal as ts

        values = _vector(weights, self.parameters) * share
        big = np.flatnonzero(np.abs(values) > self.limit)
        if big.size:
            raise Rejected(
                f"values[{big[0]}] is {values[big[0]]:.6g}, beyond {self.limit:g}: sums could wrap."
            )
        return [
            ts.ckks_vector(self.context, values[at : at + self.SLOTS]).serialize()
            for at in range(0, self.parameters, self.SLOTS)
        ]

    @cached_property
    def _own(self) -> list[tuple[bytes, Any]]:
        """What a message is held against: zeros of ours."""
        import tenseal as ts

        parts = self.encrypt(np.zeros(self.parameters), 0.0)
        return [(raw, ts.ckks_vector_from(self.context, raw)) for raw in parts]

    def _read(self, message: Message) -> list[Any]:
        import tenseal as ts

        if len(message) != len(self._own):
            raise Rejected(f"Expected {len(self._own)} ciphertexts, got {len(message)}.")
        vectors = []
        for i, (raw, (like, own)) in enumerate(zip(message, self._own, strict=True)):
            wrong = Rejected(f"Ciphertext {i} is damaged or of another kind.")
            if len(raw) != len(like) or raw[:23] != like[:23] or raw[-9:] != like[-9:]:
                raise wrong
            try:
                vector = ts.ckks_vector_from(self.context, raw)
                vector + own  # SEAL looks at some things only when it adds
                kinds = [
                    [(c.size(), c.scale, c.parms_id()) for c in v.ciphertext()]
                    for v in (vector, own)
                ]
            except (ValueError, RuntimeError, TypeError, MemoryError):
                raise wrong from None
            if kinds[0] != kinds[1]:
                raise wrong
            vectors.append(vector)
        return vectors

    def check(self, message: Message) -> None:
        """Rejected unless all ciphertexts are there and whole."""
        self._read(message)

    def add(self, messages: Sequence[Message]) -> Message:
        """Sums of ciphertexts."""
        columns = zip(*(self._read(m) for m in messages), strict=True)
        try:
            return [functools.reduce(operator.add, column).serialize() for column in columns]
        except (ValueError, RuntimeError):
            raise Rejected("The ciphertexts cancel out: an addend is no encryption.") from None

    def decrypt(self, message: Message, total_share: float) -> NDArray[np.float64]:
        """The average, off by about 1e-8; Rejected without the secret key."""
        if not self.secret:
            raise Rejected("Only an office decrypts; this side holds no private key.")
        values = np.concatenate([v.decrypt() for v in self._read(message)])
        if not np.isfinite(values).all() or np.abs(values).max() > 2 * self.limit:
            raise Rejected(
                "The decrypted sum is out of range: an addend was encrypted under another key, or "
                "was out of range itself."
            )
        return values / total_share

    def public_side(self) -> Ckks:
        """Without the secret key."""
        public = self.context.copy()
        public.make_context_public()
        return dataclasses.replace(self, context=public, secret=False)

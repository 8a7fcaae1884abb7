"""Microsoft SEAL's CKKS (through tenseal), with sentences instead of its errors.

J. H. Cheon, A. Kim, M. Kim, Y. Song, ASIACRYPT 2017. Every context holds SEAL's 128-bit limit.
"""

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import require

Array = NDArray[np.float64]
SCALE = 2.0**40
LARGEST = 2.0**12  # what a result may reach: a wrong key or an overflow gives numbers far above it


class Seal:
    """Keys and operations of one CKKS context; `bits` are the sizes of its primes, the last one
    serves key switching; `steps` are the rotations that have a key. Raises ValueError where SEAL
    calls the parameters less than 128-bit secure."""

    def __init__(
        self, degree: int, bits: Sequence[int], *, scale: float = SCALE, steps: Sequence[int] = (1,)
    ) -> None:
        import tenseal.sealapi as api

        self.api, parameters = api, api.EncryptionParameters(api.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(degree)
        parameters.set_coeff_modulus(api.CoeffModulus.Create(degree, list(bits)))
        self.context = api.SEALContext(parameters, True, api.SEC_LEVEL_TYPE.TC128)
        secure = self.context.parameters_set()
        require(secure, f"{sum(bits)} bits at degree {degree} are less than 128-bit secure.")
        self.scale, self.slots = scale, degree // 2
        self.moduli = [m.value() for m in parameters.coeff_modulus()]
        keys = api.KeyGenerator(self.context)
        self.secret_key = keys.secret_key()
        self.public_key, self.relin_keys = api.PublicKey(), api.RelinKeys()
        self.galois_keys = api.GaloisKeys()
        keys.create_public_key(self.public_key)
        keys.create_relin_keys(self.relin_keys)
        elements = [pow(3, step, 2 * degree) for step in steps]  # element 3 turns the slots by one
        keys.create_galois_keys(elements, self.galois_keys)
        self.run, self.encoder = api.Evaluator(self.context), api.CKKSEncoder(self.context)

    @cached_property
    def key_bytes(self) -> int:
        """Size of one evaluation key, for relinearisation or one rotation, as it is sent."""
        return len(self.save(self.relin_keys))

    def new(self) -> Any:
        """An empty ciphertext, for results."""
        return self.api.Ciphertext()

    def plain(self, values: Any, scale: float | None = None, *, like: Any = None) -> Any:
        """Values, or one number for all slots, as a plaintext at the level of `like`."""
        if not isinstance(values, float):
            values = np.asarray(values, float).tolist()
            fits = len(values) <= self.slots
            require(fits, f"{len(values)} values do not fit {self.slots} slots: split them.")
        plain, at = self.api.Plaintext(), [] if like is None else [like.parms_id()]
        scale = scale or self.scale
        try:
            self.encoder.encode(values, *at, scale, plain)
        except ValueError as error:
            text = f"Values do not fit scale 2^{np.log2(scale):.0f} and this modulus: {error}."
            raise ValueError(text) from None
        return plain

    def encrypt(self, values: Any, scale: float | None = None) -> Any:
        """A fresh ciphertext of up to `slots` numbers."""
        out, plain = self.new(), self.plain(values, scale)
        self.api.Encryptor(self.context, self.public_key).encrypt(plain, out)
        return out

    def decrypt(self, ciphertext: Any, *, secret_key: Any = None) -> Array:
        """All slots. ValueError where one is so large that the key is wrong or it overflowed."""
        plain = self.api.Plaintext()
        reader = self.api.Decryptor(self.context, secret_key or self.secret_key)
        reader.decrypt(ciphertext, plain)
        values = np.array(self.encoder.decode_double(plain))
        reach = np.abs(values).max()
        sense = f"Decrypted numbers reach {reach:.2g}, expected at most {LARGEST:g}: "
        require(reach <= LARGEST, sense + "wrong key, or the modulus overflowed.")
        return values

    def multiply(self, a: Any, b: Any) -> Any:
        """Multiply, relinearise, rescale. ValueError where no rescaling prime is left."""
        out, primes = self.new(), min(a.coeff_modulus_size(), b.coeff_modulus_size())
        require(primes > 1, "No rescaling prime is left to multiply with.")
        if a is b:
            self.run.square(a, out)
        else:
            self.run.multiply(self.lowered(a, primes), self.lowered(b, primes), out)
        self.run.relinearize_inplace(out, self.relin_keys)
        self.run.rescale_to_next_inplace(out)
        return out

    def weigh(
        self, ciphertext: Any, weights: Any, *, primes: int = 0, scale: float | None = None
    ) -> Any:
        """Times numbers in clear, rescaled to so many primes (0: one less) and exactly to a scale:
        only what has one level and one scale can be added."""
        out, scale = self.new(), scale or self.scale
        primes = primes or ciphertext.coeff_modulus_size() - 1
        left = 0 < primes < ciphertext.coeff_modulus_size()
        require(left, "No rescaling prime is left to multiply with.")
        high = self.lowered(ciphertext, primes + 1)
        factor = self.plain(weights, scale * self.moduli[primes] / high.scale, like=high)
        require(not factor.is_zero(), "Weights all round to 0 at this scale: leave them out.")
        self.run.multiply_plain(high, factor, out)
        self.run.rescale_to_next_inplace(out)
        out.scale = scale
        return out

    def shift(self, ciphertext: Any, numbers: Any) -> Any:
        """Plus numbers in clear."""
        out = self.new()
        constant = self.plain(numbers, ciphertext.scale, like=ciphertext)
        self.run.add_plain(ciphertext, constant, out)
        return out

    def rotate(self, ciphertext: Any, step: int) -> Any:
        """Slots turned to the left by a step that has a key."""
        out = self.new()
        self.run.rotate_vector(ciphertext, step, self.galois_keys, out)
        return out

    def total(self, ciphertexts: Sequence[Any]) -> Any:
        """The sum of ciphertexts at one level and scale."""
        out = self.new()
        self.run.add_many(list(ciphertexts), out)
        return out

    def lowered(self, ciphertext: Any, primes: int) -> Any:
        """The same numbers under fewer primes."""
        while ciphertext.coeff_modulus_size() > primes:
            out = self.new()
            self.run.mod_switch_to_next(ciphertext, out)
            ciphertext = out
        return ciphertext

    def save(self, ciphertext: Any) -> bytes:
        """A ciphertext or keys, as they are sent."""
        with tempfile.TemporaryDirectory() as folder:
            ciphertext.save(str(Path(folder) / "x"))
            return (Path(folder) / "x").read_bytes()

    def load(self, message: bytes) -> Any:
        """ValueError where the bytes are no ciphertext of this context."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "x").write_bytes(message)
            out = self.new()
            try:
                out.load(self.context, str(Path(folder) / "x"))
            except (RuntimeError, ValueError, MemoryError):
                text = f"Expected a ciphertext of this context, got {len(message)} other bytes."
                raise ValueError(text) from None
        return out

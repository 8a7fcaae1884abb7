"""The RSA private operation on raw numbers, constant-time in the key, outside Python's lock.

OpenSSL's libcrypto (through ctypes, which releases the lock) is about three times as fast as GMP at
2048 bits, because it has vector code for two 1024-bit primes at once. Where no libcrypto is found,
gmpy2's `powmod_sec` serves.
"""

import ctypes
import ctypes.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import gmpy2
from cryptography.hazmat.primitives.asymmetric import rsa

from pet_lab.checks import require

Backend = Literal["openssl", "gmpy2"]
E = 65537
_NO_PADDING = 3


@lru_cache(maxsize=1)
def _libcrypto() -> Any | None:
    path = ctypes.util.find_library("crypto")
    if path is None:
        return None
    try:
        lib = ctypes.CDLL(path)
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        for name, result, arguments in (
            ("BN_bin2bn", pointer, [text, number, pointer]),
            ("RSA_new", pointer, []),
            ("RSA_free", None, [pointer]),
            ("RSA_set0_key", number, [pointer] * 4),
            ("RSA_set0_factors", number, [pointer] * 3),
            ("RSA_set0_crt_params", number, [pointer] * 4),
            ("RSA_private_decrypt", number, [number, text, text, pointer, number]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return lib


def backends() -> tuple[Backend, ...]:
    """What this machine offers, fastest first."""
    return ("openssl", "gmpy2") if _libcrypto() is not None else ("gmpy2",)


class RsaPrivateKey:
    """A fresh RSA key of a modulus of `bits` and its private operation x -> x^d mod n by CRT.

    The backend is the fastest that is present unless named.
    """

    def __init__(self, bits: int, backend: Backend | None = None) -> None:
        present = backends()
        self.backend: Backend = backend or present[0]
        missing = f"The RSA backend {self.backend!r} is not on this machine; use {present}."
        require(self.backend in present, missing)
        self.bits, self.width = bits, bits // 8
        self._numbers = rsa.generate_private_key(E, bits).private_numbers()
        self.modulus = self._numbers.public_numbers.n
        self._handle = self._load() if self.backend == "openssl" else None

    def __repr__(self) -> str:
        return f"RsaPrivateKey({self.bits} bits, {self.backend})"

    def _load(self) -> Any:
        lib, k = _libcrypto(), self._numbers
        assert lib is not None

        def numbers(*values: int) -> list[Any]:
            raws = [x.to_bytes(-(-x.bit_length() // 8), "big") for x in values]
            return [lib.BN_bin2bn(raw, len(raw), None) for raw in raws]

        handle = lib.RSA_new()
        ok = lib.RSA_set0_key(handle, *numbers(self.modulus, E, k.d))
        ok &= lib.RSA_set0_factors(handle, *numbers(k.p, k.q))
        ok &= lib.RSA_set0_crt_params(handle, *numbers(k.dmp1, k.dmq1, k.iqmp))
        require(ok == 1, "libcrypto did not take the RSA key.", RuntimeError)
        return handle

    def __del__(self) -> None:
        lib = _libcrypto()
        if getattr(self, "_handle", None) and lib is not None:
            lib.RSA_free(self._handle)

    def power(self, elements: Sequence[bytes]) -> list[bytes]:
        """x^d mod n for each; elements and results are big endian, `width` bytes, below n."""
        work = self._by_openssl if self.backend == "openssl" else self._by_gmpy2
        return list(work(elements))

    def _by_openssl(self, elements: Sequence[bytes]) -> Iterator[bytes]:
        lib, width, handle = _libcrypto(), self.width, self._handle
        assert lib is not None
        out = ctypes.create_string_buffer(width)
        for element in elements:
            if lib.RSA_private_decrypt(width, element, out, handle, _NO_PADDING) != width:
                raise ValueError("libcrypto refused an element: it must be below the modulus.")
            yield out.raw

    def _by_gmpy2(self, elements: Sequence[bytes]) -> Iterator[bytes]:
        k, power = self._numbers, gmpy2.powmod_sec
        p, q = gmpy2.mpz(k.p), gmpy2.mpz(k.q)
        for element in elements:
            x = gmpy2.mpz(int.from_bytes(element, "big"))
            at_q = power(x % q, k.dmq1, q)
            half = (power(x % p, k.dmp1, p) - at_q) * k.iqmp % p
            yield int(at_q + q * half).to_bytes(self.width, "big")

"""The RSA private operation on raw numbers, constant-time in the key, outside Python's lock.

OpenSSL's libcrypto (through ctypes, which releases the lock) is about three times as fast as GMP at
2048 bits, because it has vector code for two 1024-bit primes at once. Where no libcrypto is found,
gmpy2's `powmod_sec` serves.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import gmpy2
from cryptography.hazmat.primitives.asymmetric import rsa

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
    """A fresh RSA key and its private operation x -> x^d mod n by CRT.

    Parameters
    ----------
    bits : size of the modulus
    backend : "openssl" or "gmpy2"; None takes the fastest that is present
    """

    def __init__(self, bits: int, backend: Backend | None = None) -> None:
        self.backend: Backend = backend or backends()[0]
        if self.backend not in backends():
            raise ValueError(
                f"The RSA backend {self.backend!r} is not on this machine; use {backends()}."
            )
        self.bits, self.width = bits, bits // 8
        self._numbers = rsa.generate_private_key(E, bits).private_numbers()
        self.modulus = self._numbers.public_numbers.n
        self._handle: int | None = None
        if self.backend == "openssl":
            self._handle = self._load()

    def __repr__(self) -> str:
        return f"RsaPrivateKey({self.bits} bits, {self.backend})"

    def _load(self) -> int:
        lib, k = _libcrypto(), self._numbers
        assert lib is not None

        def number(x: int) -> int:
            raw = x.to_bytes(-(-x.bit_length() // 8), "big")
            big: int = lib.BN_bin2bn(raw, len(raw), None)
            return big

        handle: int = lib.RSA_new()
        ok = lib.RSA_set0_key(handle, number(self.modulus), number(E), number(k.d))
        ok &= lib.RSA_set0_factors(handle, number(k.p), number(k.q))
        ok &= lib.RSA_set0_crt_params(handle, number(k.dmp1), number(k.dmq1), number(k.iqmp))
        if ok != 1:
            raise RuntimeError("libcrypto did not take the RSA key.")
        return handle

    def __del__(self) -> None:
        lib = _libcrypto()
        if getattr(self, "_handle", None) and lib is not None:
            lib.RSA_free(self._handle)

    def power(self, elements: Sequence[bytes]) -> list[bytes]:
        """x^d mod n for each; elements and results are big endian, `width` bytes, below n."""
        if self.backend == "gmpy2":
            return self._power_gmpy2(elements)
        lib, width, handle = _libcrypto(), self.width, self._handle
        assert lib is not None
        out = ctypes.create_string_buffer(width)
        results = []
        for element in elements:
            if lib.RSA_private_decrypt(width, element, out, handle, _NO_PADDING) != width:
                raise ValueError("libcrypto refused an element: it must be below the modulus.")
            results.append(out.raw)
        return results

    def _power_gmpy2(self, elements: Sequence[bytes]) -> list[bytes]:
        k, power = self._numbers, gmpy2.powmod_sec
        p, q = gmpy2.mpz(k.p), gmpy2.mpz(k.q)
        results = []
        for element in elements:
            x = gmpy2.mpz(int.from_bytes(element, "big"))
            at_q = power(x % q, k.dmq1, q)
            half = (power(x % p, k.dmp1, p) - at_q) * k.iqmp % p
            results.append(int(at_q + q * half).to_bytes(self.width, "big"))
        return results

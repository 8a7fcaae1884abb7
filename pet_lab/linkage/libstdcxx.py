"""The C++ standard library's random numbers, as the R package PPRL draws them.

ISO C++11, [rand.util.seedseq] and [rand.predef]; the order of std::shuffle and the scaling of
uniform_int_distribution are those of libstdc++ from GCC 7 on. Tested against a compiled program.
"""

import numpy as np

from pet_lab.checks import require


def seed_words(text: str) -> list[int]:
    """The four words of `std::seed_seq(text).generate`."""
    seeds = [(b - 256 if b > 127 else b) % 2**32 for b in text.encode()]  # char is signed on x86
    n, p, q = 4, 1, 2  # words, and the standard's two offsets for as many
    s, out = len(seeds), [0x8B8B8B8B] * n

    def mix(x: int) -> int:
        return (x ^ (x >> 27)) % 2**32

    m = max(s + 1, n)
    for k in range(m):
        r = 1664525 * mix(out[k % n] ^ out[(k + p) % n] ^ out[(k - 1) % n]) % 2**32
        out[(k + p) % n] = (out[(k + p) % n] + r) % 2**32
        extra = s if k == 0 else (k % n + seeds[k - 1]) if k <= s else k % n
        r = (r + extra) % 2**32
        out[(k + q) % n] = (out[(k + q) % n] + r) % 2**32
        out[k % n] = r
    for k in range(m, m + n):
        total = (out[k % n] + out[(k + p) % n] + out[(k - 1) % n]) % 2**32
        r = 1566083941 * mix(total) % 2**32
        out[(k + p) % n] ^= r
        r = (r - k % n) % 2**32
        out[(k + q) % n] ^= r
        out[k % n] = r
    return out


class MinStd:
    """`std::minstd_rand0` seeded with a text, with `uniform_int_distribution` on it."""

    modulus = 2**31 - 1

    def __init__(self, text: str) -> None:
        self.state = seed_words(text)[3] % self.modulus or 1

    def below(self, n: int) -> int:
        """The next uniform integer in range(n)."""
        scaling = (self.modulus - 2) // n
        while True:
            self.state = self.state * 16807 % self.modulus
            drawn = self.state - 1
            if drawn < n * scaling:
                return drawn // scaling


def shuffle(text: str, n: int) -> np.ndarray:
    """Order of range(n) after `std::shuffle` with a generator seeded by `text`.

    The library draws one number for two swaps while the generator's range allows it (n**2 < 2**31);
    beyond, it draws otherwise, which is not needed here.
    """
    engine = MinStd(text)
    require(n * n <= engine.modulus - 2, f"{n} bits are more than one draw for two swaps covers.")
    order = list(range(n))
    if n % 2 == 0:
        j = engine.below(2)
        order[1], order[j] = order[j], order[1]
    for i in range(2 - n % 2, n, 2):
        for at, j in enumerate(divmod(engine.below((i + 1) * (i + 2)), i + 2), start=i):
            order[at], order[j] = order[j], order[at]
    return np.array(order)

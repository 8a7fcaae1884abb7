"""Dice of all pairs of 1,000-bit filters: ours against anonlink's public function; CPU seconds.

    python benchmarks/linkage_dice.py              # 20,000 x 5,000 filters

Both use the same compiled kernel; ours hands it packed arrays, anonlink's takes lists of bitarrays.
The claim is that nothing is lost on the way: at most 1.2 times anonlink's CPU time.
"""

from pathlib import Path

from harness import compare, python

PREPARE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
rng = np.random.default_rng(1)
n_a, n_b = int(sys.argv[1]), int(sys.argv[2])
bits = rng.random((n_a + n_b, 1024)) < 0.3
bits[:, 1000:] = 0
packed = np.packbits(bits, axis=1, bitorder="little")
"""

OURS = (
    PREPARE
    + """
from pet_lab.linkage.bloom import Filters
from pet_lab.linkage.compare import dice_all
words = packed.view(np.uint64)
a, b = Filters(words=words[:n_a], bits=1000), Filters(words=words[n_a:], bits=1000)
for _ in range(5):
    found = dice_all(a, b, threshold=0.4)
"""
)

PEER = (
    PREPARE
    + """
from bitarray import bitarray
from anonlink.similarities import dice_coefficient_accelerated
def listed(part):
    out = []
    for row in part:
        one = bitarray(endian="little")
        one.frombytes(row.tobytes())
        out.append(one)
    return out
data = listed(packed[:n_a]), listed(packed[n_a:])
for _ in range(5):
    found = dice_coefficient_accelerated(data, 0.4)
"""
)


def main() -> None:
    size = (20_000, 5_000)

    def ours(folder: Path) -> list[str]:
        return python(OURS, *size)

    def peer(folder: Path) -> list[str]:
        return python(PEER, *size)

    compare(
        "Dice of all pairs costs at most 1.2 times anonlink's own function (5 x 100 M pairs)",
        peer="anonlink, dice_coefficient_accelerated",
        goal=1 / 1.2,
        ours_command=ours,
        peer_command=peer,
        repetitions=3,
    )


if __name__ == "__main__":
    main()

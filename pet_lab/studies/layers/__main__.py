"""One of three parties that compute layers of a network on shared numbers: `python -m` HOME.

It reports where it listens, reads one line of orders, and reports its share of each result with
what the step cost. Numbers are fixed-point, whole multiples of 2**-FRACTION; a party sees Shamir
shares with threshold 1 (two of three open them), and follows the protocol.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from pet_lab.mpc.arithmetic import Arithmetic, Vector
from pet_lab.mpc.mesh import Endpoint, Mesh
from pet_lab.mpc.messages import Member, as_numbers, as_text

PRIME = 2**89 - 1  # room for comparisons of 49 bits, and mpyc's masks of 30
FRACTION = 12


async def linear(
    a: Arithmetic, x: Vector, weights: Vector, bias: Vector, *, inputs: int, cut: bool = True
) -> Vector:
    """Rows of x times weights plus bias: an inner product costs the exchange of one number.

    x holds rows of `inputs` numbers, weights one such row for each output; bias has twice the
    fraction. Without `cut` so has the result, which is then exact.
    """
    rows = [x[slice(i, i + inputs)] for i in range(0, len(x), inputs)]
    columns = [weights[slice(i, i + inputs)] for i in range(0, len(weights), inputs)]
    sums = await a.dots([(row, column) for row in rows for column in columns])
    sums = a.add(sums, a.concat([bias] * len(rows)))
    return await a.truncate(sums, FRACTION, a.bits) if cut else sums


async def relu(a: Arithmetic, x: Vector) -> Vector:
    """max(x, 0): a comparison and a product."""
    return await a.mul(await a.less(a.constant(0, len(x)), x), x)


async def max_pool(a: Arithmetic, x: Vector, *, window: int) -> Vector:
    """The largest of each `window` (a power of two) numbers that follow one another."""
    while window > 1:
        left, right = (x.take(range(side, len(x), 2)) for side in (0, 1))
        further = a.add(right, left, times=-1)
        x = a.add(left, await a.mul(await a.less(left, right), further))
        window //= 2
    return x


async def convolution(a: Arithmetic, image: Vector, kernel: Vector, *, side: int) -> Vector:
    """A square image under a square kernel, without padding: inner products, exact."""
    k = round(len(kernel) ** 0.5)
    starts = [row * side + col for row in range(side - k + 1) for col in range(side - k + 1)]
    windows = [[at + r * side + c for r in range(k) for c in range(k)] for at in starts]
    return await a.dots([(image.take(at), kernel) for at in windows])


async def network(a: Arithmetic, x: Vector, *layers: Vector, sizes: list[int]) -> Vector:
    """Linear layers with ReLU between them; `layers` are weights and biases in turn."""
    for i, (inputs, _) in enumerate(pairwise(sizes)):
        x = await linear(a, x, layers[2 * i], layers[2 * i + 1], inputs=inputs)
        if i < len(sizes) - 2:
            x = await relu(a, x)
    return x


STEPS: dict[str, Callable[..., Awaitable[Vector]]] = {
    step.__name__: step for step in (linear, relu, max_pool, convolution, network)
}


async def carry_out(mesh: Mesh, order: dict[str, Any]) -> dict[str, Any]:
    """One step: this party's share of the result, and what it cost this party."""
    mesh.endpoint.delay_s = order["delay_s"]
    a = Arithmetic(mesh.runtime, PRIME, checked=order["checked"])
    inputs = [await a.vector(as_numbers(shares)) for shares in order["inputs"]]
    await a.coin()  # all begin together
    sent, cpu, wall = sum(mesh.bytes_sent.values()), time.process_time(), time.perf_counter()
    result = await STEPS[order["step"]](a, *inputs, **order["options"])
    await a.verify()
    return {
        "event": "result",
        "shares": as_text(result.z),
        "bytes": sum(mesh.bytes_sent.values()) - sent,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
    }


async def run(home: Path) -> None:
    """Listen, obey one line of orders, and end when the console closes."""
    answers, sys.stdout = sys.stdout, sys.stderr  # mpyc prints: not among the answers
    endpoint, listener = Endpoint(home), socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    me = {"name": endpoint.name, "host": "127.0.0.1", "port": port, "data_port": port}
    print(json.dumps({"event": "listening", **me, "public": ""}), flush=True, file=answers)
    orders = json.loads(sys.stdin.readline())
    mesh = Mesh(endpoint, msgspec.convert(orders["members"], list[Member]), 1, listener)
    await mesh.connect()
    for order in orders["steps"]:
        print(json.dumps(await carry_out(mesh, order)), flush=True, file=answers)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))

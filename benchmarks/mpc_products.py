"""20,000 joint products among three parties: our share vectors over TLS against mpyc's lists.

Both use mpyc's resharing. Ours keeps plain numbers instead of one secure object each, encrypts and
authenticates every connection, and checks every opening against all shares; mpyc runs as its manual
says, without TLS. Both check their result.
"""

import sys
from pathlib import Path

import harness

ROOT = Path(__file__).resolve().parents[1]
N = 20_000

PARTY = f"""
import asyncio, json, socket, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from pet_lab.mpc import arithmetic, mesh, messages
from pet_lab.shares import mersenne_prime

async def main(folder, index, ports):
    members = [
        messages.Member(name=f"pp-{{i}}", host="127.0.0.1", port=p, data_port=p, public="")
        for i, p in enumerate(ports)
    ]
    listener = socket.create_server(("127.0.0.1", ports[index]))
    listener.setblocking(False)
    endpoint = mesh.Endpoint(Path(folder) / f"pp-{{index}}")
    among = mesh.Mesh(endpoint, members, 1, listener)
    await among.connect(60)
    a = arithmetic.Arithmetic(among.runtime, mersenne_prime(120))
    rows = [arithmetic.Vector(r) for r in await a.put_in([index + 2] * {N})]
    products = await a.open((await a.mul(rows[0], rows[1])).z)
    assert products == [6] * {N}
    await a.coin()
    among.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))
"""

OURS = f"""
import json, socket, subprocess, sys, tempfile
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from pet_lab.parties.certificates import TestAuthority, save
with tempfile.TemporaryDirectory() as folder:
    authority = TestAuthority()
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [s.getsockname()[1] for s in sockets]
    for i, s in enumerate(sockets):
        save(authority.issue(f"pp-{{i}}"), Path(folder) / f"pp-{{i}}")
        s.close()
    command = [sys.executable, "-c", {PARTY!r}, folder]
    parties = [subprocess.Popen([*command, str(i), json.dumps(ports)]) for i in range(3)]
    assert [p.wait() for p in parties] == [0, 0, 0]
"""

PEER = f"""
import subprocess, sys
code = '''
from mpyc.runtime import mpc

async def main():
    secint = mpc.SecInt(80, p=2**127 - 1)
    await mpc.start()
    rows = mpc.input([secint(mpc.pid + 2)] * {N})
    products = await mpc.output(mpc.schur_prod(rows[0], rows[1]))
    assert products == [6] * {N}
    await mpc.shutdown()

mpc.run(main())
'''
with open("peer.py", "w") as file:
    file.write(code)
import socket
base = 20000 + hash(sys.argv[0] + __import__("os").getcwd()) % 20000
command = [sys.executable, "peer.py", "-M3", "-B", str(base), "--no-log"]
parties = [subprocess.Popen([*command, f"-I{{i}}"]) for i in range(3)]
assert [p.wait() for p in parties] == [0, 0, 0]
"""

if __name__ == "__main__":
    harness.compare(
        "20,000 joint products over mutual TLS cost no more CPU than mpyc's own in the clear",
        peer="mpyc 0.11, lists of secure integers, no TLS",
        goal=1.0,
        ours_command=lambda folder: [sys.executable, "-c", OURS],
        peer_command=lambda folder: [sys.executable, "-c", PEER],
        repetitions=3,
    )

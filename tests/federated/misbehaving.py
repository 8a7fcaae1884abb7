"""An office's process that fails as PET_LAB_TEST_FAULTS says: {office: [kind, round]}.

`python -m tests.federated.misbehaving office FOLDER ADDRESS`; kinds are nan, dies, sleeps (in that
round), never starts, stranger (a certificate of another
authority), mute (no accuracy among its metrics) and noise (rubbish at the server's port, before and
after a handshake, with a certificate and without; then it joins as it should).
"""

import json
import os
import random
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from pet_lab.federated import flower
from pet_lab.federated.rounds import Client
from pet_lab.files import write_atomic
from pet_lab.parties import certificates

KIND, ROUND = "", 0


def unusable(number, received, weights):
    return np.full_like(weights, np.nan)


class Misbehaving(Client):
    """Fails in one round, to see what the others do."""

    def initial(self):
        if KIND == "never starts":
            os._exit(3)
        return super().initial()

    def fit(self, number, model):
        if number == ROUND:
            if KIND == "dies":
                os._exit(3)  # as if the power had gone: no goodbye, no clean-up
            if KIND == "sleeps":
                time.sleep(3600)
        self.transform = unusable if number == ROUND else None
        return super().fit(number, model)


def mute(client, ins, answer=flower._evaluate):
    res = answer(client, ins)
    del res.metrics["accuracy"]
    return res


def shout(place, address):
    """150 connections that send rubbish: without TLS, without a certificate, with a good one."""
    rng, (host, port) = random.Random(20261127), address.split(":")
    bare = ssl.create_default_context(cafile=place / "ca.pem")
    named = ssl.create_default_context(cafile=place / "ca.pem")
    named.load_cert_chain(place / "cert.pem", place / "key.pem")
    for context in (bare, named):
        context.set_alpn_protocols(["h2"])
    heads = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01")
    for i in range(150):
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as line:
            how = (None, bare, named)[i % 3]
            talk = how.wrap_socket(line, server_hostname="server") if how else line
            talk.sendall(rng.choice(heads) + rng.randbytes(rng.randrange(2000)))
            talk.settimeout(0.2)
            talk.recv(100)


if __name__ == "__main__":
    _, folder, address = sys.argv[1:]
    place = Path(folder)
    KIND, ROUND = json.loads(os.environ["PET_LAB_TEST_FAULTS"])[place.name]
    if KIND == "stranger":
        other = certificates.TestAuthority("some other authority").issue(place.name)
        (place / "cert.pem").write_bytes(other.certificate)
        write_atomic(place / "key.pem", other.key, secret=True)
    if KIND == "noise":
        shout(place, address)
    if KIND == "mute":
        flower._evaluate = mute
    flower.join(place, address, program=Misbehaving)

"""An office's process that fails as PET_LAB_TEST_FAULTS says: {office: [kind, round]}.

`python -m tests.federated.misbehaving office FOLDER ADDRESS`; kinds are nan, dies, sleeps (in that
round), never starts, stranger (a certificate of another
authority) and mute (no accuracy among its metrics).
"""

import json
import os
import sys
import time
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


if __name__ == "__main__":
    _, folder, address = sys.argv[1:]
    place = Path(folder)
    KIND, ROUND = json.loads(os.environ["PET_LAB_TEST_FAULTS"])[place.name]
    if KIND == "stranger":
        other = certificates.TestAuthority("some other authority").issue(place.name)
        (place / "cert.pem").write_bytes(other.certificate)
        write_atomic(place / "key.pem", other.key, secret=True)
    if KIND == "mute":
        flower._evaluate = mute
    flower.join(place, address, program=Misbehaving)

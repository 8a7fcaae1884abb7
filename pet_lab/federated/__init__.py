"""Federated learning among offices: rounds of averaging, encrypted adding, and what leaks anyway.

>>> import numpy as np
>>> from pet_lab import federated
>>> rng = np.random.default_rng(1)
>>> frame, provenance = federated.stand_in(rng, seconds=6)
>>> offices = federated.divide(federated.windows(frame), rng=rng)
>>> net = federated.Network((147, 50, 24, 6))
>>> how = federated.LocalTraining(), federated.Plain(net.parameters)
>>> federation = federated.Federation(offices, net, *how, rounds=2, seed=1)
>>> history = federated.simulate(federation)

`flower.in_process` and `flower.processes` run the same rounds through Flower. Importing this
package loads neither Flower nor TenSEAL.
"""

# ruff: noqa: F401 - the package's face
from pet_lab.federated import attacks, flower, masking, private, robust
from pet_lab.federated.aggregation import Ckks, Paillier, Plain, Rejected, Scheme
from pet_lab.federated.features import CLASSES, FEATURES, TEST_USERS, Windows, stand_in, windows
from pet_lab.federated.model import Evaluation, LocalTraining, Network
from pet_lab.federated.partition import OFFICES, Office, divide, pooled
from pet_lab.federated.rounds import (
    Aggregator,
    Client,
    Federation,
    History,
    RoundVoid,
    Update,
    simulate,
)

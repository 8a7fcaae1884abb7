"""Paillier's additive encryption for vectors: many weights in one plaintext, added while encrypted.

>>> import numpy as np
>>> from pet_lab import paillier
>>> weights = [np.array([0.5, -1.0]), np.array([0.25, 3.0])]
>>> key = paillier.generate(2048)
>>> packing = paillier.Packing(key_bits=2048, max_terms=4)
>>> encrypted = [key.public.read(key.encrypt(w, packing).to_bytes()) for w in weights]
>>> key.decrypt(key.public.add(*encrypted)).round(3).tolist()
[0.75, 2.0]

Keys and their arithmetic are those of python-paillier (`phe`); ciphertexts made here decrypt
there. `threshold` shares the private key so that no single holder can decrypt.
"""

# ruff: noqa: F401 - the package's face
from pet_lab.paillier.keys import Ciphertexts, PrivateKey, PublicKey, generate
from pet_lab.paillier.packing import CiphertextError, Grid, Packing, PaillierError, SlotOverflow
from pet_lab.paillier.threshold import KeyShare, Partial, ThresholdKey, deal

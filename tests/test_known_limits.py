"""What nobody catches, shown. A limit that falls changes docs/threat-model.md."""

import numpy as np
import pandas as pd

from pet_lab import federated as fl
from pet_lab import paillier, psi
from pet_lab.federated import masking
from pet_lab.noise import Noise
from pet_lab.psi import totals
from pet_lab.psi.disclosure import OutputRules
from pet_lab.psi.linker import Linker, Query
from pet_lab.psi.tokens import tables_for_linkers


def test_two_linkers_that_are_each_told_to_be_the_first_release_table_and_margins():
    n, rng = 150, np.random.default_rng(1)
    frames = [
        pd.DataFrame({"id": [f"{i:03d}" for i in range(n)], c: rng.choice(labels, n, p=[0.9, 0.1])})
        for c, labels in (("pref", ["100", "300"]), ("size", ["small", "large"]))
    ]
    holders = [psi.DataHolder(*pair) for pair in zip(("statcan", "cbs"), frames, strict=True)]
    result = psi.intersect(psi.EcdhEngine(), *holders, on="id", variant="analytics")
    axes = ("cbs:size", "statcan:pref")
    linkers = [Linker(("statcan", "cbs"), rules=OutputRules(min_cell=10)) for _ in range(2)]
    for one in linkers:
        for holder, outcome, column in zip(
            holders, (result.left, result.right), ("pref", "size"), strict=True
        ):
            (table,) = tables_for_linkers(holder, outcome, on="id", columns=[column])
            one.accept(table, holder.name)

    def ask(one, *by):
        return one.answer(Query(session=result.left.session, group_by=by), "cbs").values

    assert pd.crosstab(frames[1]["size"], frames[0]["pref"]).to_numpy().min() < 10
    assert None in ask(linkers[0], *axes)
    assert any(None in ask(linkers[0], axis) for axis in axes)  # the first remembers its table
    assert not any(None in ask(linkers[1], axis) for axis in axes)  # the other never saw it


def test_a_server_that_sends_one_contribution_as_the_sum_has_it_opened():
    key, weights = paillier.generate(512, for_tests=True), np.linspace(-1, 1, 12)
    scheme = fl.Paillier.of(key, 12, offices=4)
    alone = scheme.encrypt(weights, 0.25)
    np.testing.assert_allclose(scheme.decrypt(alone, 0.25), weights, atol=1e-5)


def test_threshold_offices_open_a_single_contribution_too():
    key, shares = paillier.deal(4, 3, bits=512, for_tests=True)
    packing = paillier.Packing(key_bits=512, value_bits=16, limit=2.0, max_terms=4)
    one = key.public.encrypt(np.array([1.5, -0.5]), packing, noise="short")
    opened = key.combine(one, [key.partial(share, one) for share in shares[:3]])
    np.testing.assert_allclose(opened, [1.5, -0.5], atol=packing.step)


def test_a_masking_server_with_one_office_of_three_reads_another_by_telling_two_stories():
    """n + c = 4 = 2 t: office 1 hears that 2 left, office 2 that it stayed; 3 is the server's."""
    offices = {i: masking.MaskingOffice(3, 2, i) for i in (1, 2, 3)}
    public = {i: o.advertise() for i, o in offices.items()}
    wrapped = {i: o.share(public) for i, o in offices.items()}
    for i, o in offices.items():
        o.receive({j: sent[i] for j, sent in wrapped.items() if j != i})
    vector = np.arange(20, dtype=np.uint32)
    masked = {i: o.mask(vector) for i, o in offices.items()}
    own = offices[3]._held[2]
    half = len(own) // 2
    left, stayed = offices[1].reveal([1, 3])[2], offices[2].reveal([2, 3])[2]
    assert (left[0], stayed[0]) == ("key", "seed")
    key = masking.X25519PrivateKey.from_private_bytes(masking._join({1: left[1], 3: own[half:]}, 2))
    opened = masked[2] - masking._stream(masking._join({2: stayed[1], 3: own[:half]}, 2), 20)
    opened += masking._stream(masking._agreed(key, public[1][0]), 20)  # 2 is above 1: subtracted
    opened -= masking._stream(masking._agreed(key, public[3][0]), 20)
    assert np.array_equal(opened, vector)


def test_values_that_are_powers_of_two_spell_who_is_in_a_cell():
    """The bare measurement of totals has no output check; a linker's limit for the owner has."""
    values, cells = 2 ** np.arange(6), np.array([0, 1, 1, 0, 1, 0])
    cost = totals.total_by_cell("paillier", values, cells, 2, paillier_bits=1024)
    assert [int(cost.totals[1]) >> i & 1 for i in range(6)] == cells.tolist()


def test_whoever_knows_the_seed_subtracts_the_noise():
    counts = np.array([3.0, 900.0, 41.0])
    released = counts + Noise(7).gaussian(25.0, 3)
    assert np.array_equal(np.round(released - Noise(7).gaussian(25.0, 3)), counts)
    assert not np.array_equal(np.round(released - Noise(None).gaussian(25.0, 3)), counts)

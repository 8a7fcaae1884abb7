"""Totals under every scheme against the totals in clear, and what the owner's slots tell."""

import numpy as np
import pytest

from pet_lab import psi
from pet_lab.psi import totals


@pytest.mark.parametrize("scheme", totals.SCHEMES)
def test_totals_are_those_in_clear(scheme):
    n = 40 if scheme == "paillier" else 9000
    rng = np.random.default_rng(3)
    values = rng.integers(-(10**6), 10**6, n)
    cells = rng.integers(0, 4, n)
    made = totals.total_by_cell(scheme, values, cells, 4, paillier_bits=1024)
    clear = [values[cells == c].sum() for c in range(4)]
    if scheme == "ckks":
        # 20 bits of fraction at a scale of 2^40, over 9,000 values and slots of up to 2^20.
        assert np.allclose(made.totals, clear, atol=1.0)
    else:
        assert list(made.totals) == clear
        assert made.error == 0
    assert made.bytes_sent > 0


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_the_owner_learns_the_total_and_not_the_slots(scheme):
    owner = totals.EncryptedColumn(scheme)
    values = np.arange(1000, dtype=np.int64)
    (total,) = totals.total_encrypted(
        scheme, owner.public(), owner.encrypt(values), np.zeros(1000, dtype=np.int64), 1
    )
    load = (
        totals._tenseal().bfv_vector_from if scheme == "bfv" else totals._tenseal().ckks_vector_from
    )
    slots = np.array(load(owner._context, total).decrypt()[:1000], dtype=float)
    assert abs(np.corrcoef(slots, values)[0, 1]) < 5 / np.sqrt(1000)
    assert owner.decrypt([total])[0] == pytest.approx(values.sum(), abs=1)


def test_the_linker_cannot_decrypt():
    owner = totals.EncryptedColumn("bfv")
    (raw,) = owner.encrypt(np.arange(5))
    context = totals._tenseal().context_from(owner.public())
    assert not context.is_private()
    with pytest.raises(ValueError, match="secret"):
        totals._tenseal().bfv_vector_from(context, raw).decrypt()


def test_what_does_not_fit_is_refused():
    owner = totals.EncryptedColumn("bfv")
    with pytest.raises(psi.PsiError, match="use a coarser unit"):
        owner.encrypt(np.full(10, 1 << 55))
    with pytest.raises(psi.PsiError, match="Schemes are shares, bfv, ckks, paillier"):
        totals.total_by_cell("magic", np.zeros(1, dtype=int), np.zeros(1, dtype=int), 1)
    with pytest.raises(psi.PsiError, match="without rows"):
        totals.total_by_cell("bfv", np.ones(3, dtype=int), np.zeros(3, dtype=int), 2)

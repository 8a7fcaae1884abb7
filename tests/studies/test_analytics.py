"""The annex's use case: its files, all tables, the linker's view, the output checks."""

import numpy as np
import pytest

from pet_lab import data, psi
from pet_lab.data import istat_bi
from pet_lab.rows import concat
from pet_lab.studies import analytics as study


@pytest.fixture(scope="module")
def case():
    stand_in = istat_bi.stand_in(np.random.default_rng(1))
    return study.AnnexFiles(
        psi.DataHolder("istat", stand_in.istat),
        psi.DataHolder("bank", stand_in.bank),
        list(stand_in.provenance),
        stand_in.real,
    )


@pytest.fixture(scope="module")
def run(case):
    return study.run(case, engine="ecdh", min_cell=10)


@pytest.fixture(scope="module")
def rows(case, run):
    noise, log = study.noise(case, run, epsilon=1.0, replicates=20)
    assert log["state"].str.startswith("refused: The budget").sum() == 1
    assert log["epsilon"].sum() == 3
    view = study.linker_view(case, run)
    return concat(
        study.tables(case, run), study.protected(run, strict_cell=90), study.leakage(view), noise
    )


def test_the_stand_in_has_the_shape_of_the_published_files(case, tmp_path):
    common = set(case.istat.values("IDKEY")) & set(case.bank.values("IDKEY"))
    assert (len(case.istat.frame), len(case.bank.frame), len(common)) == (1000, 3479, 732)
    assert not case.real
    with pytest.raises(data.DataError, match="not in the folder"):
        istat_bi.load(rng=np.random.default_rng(1), folder=tmp_path)
    for file in istat_bi.FILES.values():
        (tmp_path / file).write_text("IDKEY;OTHER\nA;1\n")
    with pytest.raises(data.DataError, match="has the columns IDKEY, CLASSE_ETA"):
        istat_bi.load(rng=np.random.default_rng(1), folder=tmp_path)


def test_the_published_files(real_data):
    case = istat_bi.load(rng=np.random.default_rng(1), folder=real_data / "istat_bi")
    assert case.real
    assert (len(case.istat), len(case.bank)) == (1000, 3479)
    assert len(set(case.istat["IDKEY"]) & set(case.bank["IDKEY"])) == 732


def test_every_cell_is_that_of_a_join_in_clear(rows, case):
    cells = rows[rows["metric"] == "count"]
    joined = case.istat.frame.merge(case.bank.frame, on="IDKEY")
    assert len(cells) == 48
    for row in cells.itertuples():
        both = (joined[row.istat_column] == row.istat_label) & (
            joined[row.bank_column] == row.bank_label
        )
        assert row.value == both.sum()


def test_what_each_variant_tells(case):
    shown = study.variants(case, engine="ecdh").set_index("variant")
    assert shown["common"].tolist() == [732] * 4
    assert not shown.loc["cardinality", "knows which"]
    assert shown["columns received"].to_dict() == {
        "psi": 0,
        "cardinality": 0,
        "enrichment": 1,
        "analytics": 0,
    }
    assert not shown["a key or its hash on the wire"].any()


def test_claims_follow_the_rows(rows, case):
    assert all(c.text for c in study.takeaways(rows, strict_cell=90, epsilon=1.0))
    assert study.headline(rows).text.startswith("All 48 cells of the 6 tables equal")
    protected = study.cross_table(rows, "count_protected").set_index("istat_label")
    hidden = rows.loc[rows["metric"] == "cells_withheld", "value"].item()
    assert (protected == "withheld").to_numpy().sum() == hidden > 0
    wrong = rows.copy()
    wrong.loc[(wrong["metric"] == "count").idxmax(), "value"] += 1
    assert study.headline(wrong).text.startswith("47 of 48 cells")
    unseen = rows[rows["metric"] != "labels_named_by_frequency"]
    with pytest.raises(KeyError):
        assert study.headline(unseen).text


def test_the_published_list_of_pros_and_cons_is_judged_by_the_run(rows, case):
    shown = study.variants(case, engine="ecdh")
    judged = study.pros_and_cons(rows, case, shown, strict_cell=90)
    assert len(judged) == 7
    evidence = judged["evidence here"].str.cat(sep=" ")
    assert "opens 14 of 14 labels" in evidence
    assert "refused 1 of 4" in evidence
    leaky = shown.assign(**{"a key or its hash on the wire": True})
    again = study.pros_and_cons(rows, case, leaky, strict_cell=90)
    assert again["verdict"].tolist()[2] == "fails"


def test_noise_is_that_of_the_discrete_laplace_distribution(rows):
    errors = rows.loc[rows["metric"] == "noise_mean_absolute", "value"]
    q = np.exp(-1.0)
    expected, variance = 2 * q / (1 - q**2), 2 * q / (1 - q) ** 2
    # 20 means over 9 cells each: within 5 standard errors; it cannot be zero.
    assert abs(errors.mean() - expected) < 5 * np.sqrt((variance - expected**2) / (9 * 20))

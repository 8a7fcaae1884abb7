"""The annex's use case: its files, all tables, the linker's view, the output checks."""

import functools

import numpy as np
import pandas as pd
import pytest

from pet_lab import data
from pet_lab.data import istat_bi
from pet_lab.rows import concat
from pet_lab.studies import analytics as study


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(istat_bi, "default_folder", lambda: None)  # the stand-in, wherever this runs
        return study.files(seed=1)


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
        study.tables(case, run),
        study.protected(case, run, strict_cell=90),
        study.leakage(case, view),
        noise,
    )


def test_the_stand_in_has_the_shape_of_the_published_files(case, tmp_path):
    common = set(case.left.values("IDKEY")) & set(case.right.values("IDKEY"))
    assert (len(case.left.frame), len(case.right.frame), len(common)) == (1000, 3479, 732)
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
    joined = case.left.frame.merge(case.right.frame, on="IDKEY")
    assert len(cells) == 48
    for row in cells.itertuples():
        both = (joined[row.left_column] == row.left_label) & (
            joined[row.right_column] == row.right_label
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
    assert study.headline(rows).text.startswith("All 48 cells (tables: 6) equal")
    protected = study.cross_table(rows, "count_protected", case.pair).set_index(case.pair[0])
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


LEFT = pd.DataFrame({"id": [f"{i:03}" for i in range(60)], "region": ["north", "south"] * 30})
RIGHT = pd.DataFrame({"person": LEFT["id"][10:], "size": (["small", "small", "large"] * 20)[10:]})


@pytest.fixture
def own(tmp_path):
    """Two files of one's own, as the notebook opens them."""
    LEFT.to_csv(tmp_path / "left.csv", index=False)
    RIGHT.to_csv(tmp_path / "right.csv", index=False)
    names = (str(tmp_path / f"{side}.csv") for side in ("left", "right"))
    pair = data.open_pair(*names, on=["id=person"], most_labels=study.MOST_LABELS)
    return study.files(seed=1, own=pair)


def test_own_files_are_counted_as_a_join_counts_them(own):
    run = study.run(own, engine="ecdh", min_cell=5)
    rows = study.tables(own, run)
    joined = LEFT.merge(RIGHT, left_on="id", right_on="person").groupby(["region", "size"]).size()
    cells = rows[rows["metric"] == "count"]
    got = cells.set_index(["left_label", "right_label"])["value"]
    assert got.to_dict() == joined.astype(float).to_dict()
    assert not own.real
    noise, _ = study.noise(own, run, epsilon=1.0, replicates=2)
    view = study.linker_view(own, run)
    strict = study.protected(own, run, strict_cell=5)
    rows = concat(rows, strict, study.leakage(own, view), noise)
    text = study.headline(rows).text
    text += " ".join(c.text for c in study.takeaways(rows, strict_cell=5, epsilon=1.0))
    text += study.pros_and_cons(
        rows, own, study.variants(own, engine="ecdh"), strict_cell=5
    ).to_string()
    assert "50 records are common" in text
    assert "istat" not in text
    assert "bank" not in text


def test_files_too_small_for_the_smallest_count_are_refused_in_one_sentence(own):
    with pytest.raises(ValueError, match=r"Not one count leaves the linker.*lower min_cell"):
        study.tables(own, study.run(own, engine="ecdh", min_cell=30))


def test_the_panel_asks_a_fresh_linker(case, run):
    name = next(iter(case.tables))
    ask = functools.partial(study.what_if, case, run, table=name)
    exact, claim = ask(smallest_count=10, noise=0.0, linker_colludes=False)
    assert exact["value"].sum() == run.cardinality
    assert claim.text.startswith("9 of 9 cells leave, exact; 0 are too small and 0 more")
    assert "colludes with nobody reads" in claim.text
    fewer, claim = ask(smallest_count=90, noise=0.0, linker_colludes=True)
    assert len(fewer) < 9
    assert "colludes with one party reads 6 of 6 labels" in claim.text
    noisy, claim = ask(smallest_count=90, noise=0.1, linker_colludes=False)
    assert len(noisy) == 9
    assert claim.text.startswith("All 9 cells leave, off by")
    with pytest.raises(ValueError, match="no cell of this table leaves"):
        ask(smallest_count=900, noise=0.0, linker_colludes=False)

"""The generator and its chunks: calibration, and each chunk against itself alone."""

import numpy as np
import pytest

from pet_lab.linkage import PprlCompat, Typos, block, encode, link, trade_declarations
from pet_lab.linkage.chunks import chunk_estimates
from pet_lab.linkage.neighbours import fit_many
from pet_lab.linkage.totals import naive, para23, published
from pet_lab.linkage.trade import PUBLISHED_COUNTS, scaled_counts


@pytest.fixture(scope="module")
def trade():
    return trade_declarations(rng=np.random.default_rng(1))


def test_counts_of_table_2_2_are_exact(trade):
    both = trade.exports.merge(
        trade.imports[["declaration", "preferential_code"]], on="declaration"
    )
    counts = both.groupby(["exporter_size", "preferential_code"], observed=True).size().to_dict()
    assert counts == PUBLISHED_COUNTS


def test_exporters_products_dates_and_values_are_as_published(trade):
    sizes = trade.exports.drop_duplicates("exporter_id")["exporter_size"].value_counts().to_dict()
    assert sizes == {"small": 162, "large": 175}
    assert trade.exports.groupby("exporter_id")["exporter_size"].nunique().eq(1).all()
    assert trade.imports["exporter_id"].agg(["min", "max"]).tolist() == [100, 436]
    assert trade.imports["hs6"].nunique() == 100
    assert trade.imports["hs6"].between(10_121, 970_599).all()
    assert trade.imports["date"].dt.year.eq(2021).all()
    assert trade.imports["value"].between(100_000, 1_000_000).all()


def test_typos_are_as_described(trade):
    imports = trade.imports.iloc[trade.truth()].reset_index(drop=True)
    changed = trade.exports["value"] != imports["value"]
    assert changed.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 1e5))
    deflation = 1 - trade.exports["value"][changed] / imports["value"][changed]
    assert deflation.mean() == pytest.approx(0.15, abs=4 * 0.05 / np.sqrt(2e4) + 1e-5)
    assert deflation.std() == pytest.approx(0.05, rel=0.03)
    days = (trade.exports["date"] - imports["date"]).dt.days[changed]
    assert days.std() == pytest.approx(20, rel=0.03)
    assert (trade.exports["date"] == imports["date"])[~changed].all()


@pytest.mark.parametrize("n", [1, 7, 100, 99_999, 100_000, 1_000_000])
def test_scaled_counts_sum_up_and_keep_shares(n):
    counts = scaled_counts(n)
    assert sum(counts.values()) == n
    for cell, count in counts.items():
        assert abs(count - PUBLISHED_COUNTS[cell] * n / 1e5) < 1


def test_truth_under_partial_overlap(trade):
    rng = np.random.default_rng(2)
    part = trade.sample(0.7, rng)
    found = part.truth()
    matched = found >= 0
    assert matched.mean() == pytest.approx(0.7, abs=0.01)
    assert np.array_equal(
        part.exports["declaration"].to_numpy()[matched],
        part.imports["declaration"].to_numpy()[found[matched]],
    )


def test_value_effect_changes_who_is_preferential_and_not_how_many():
    made = trade_declarations(20_000, rng=np.random.default_rng(3), value_effect=1.0)
    plain = trade_declarations(20_000, rng=np.random.default_rng(3))
    for frame in (made, plain):
        assert (frame.imports["preferential_code"] == 300).sum() == sum(
            v for (_, c), v in scaled_counts(20_000).items() if c == 300
        )
    values = made.imports.groupby("preferential_code")["value"].mean()
    assert values[300] > values[100] + 100_000


def test_recall_is_the_published_one_only_with_values_as_doubles():
    """.949 at a Dice of 0.8, .796 at 0.9 (table 2.7): exporter and product as R integers."""
    rng = np.random.default_rng(4)
    recalls = {0.8: [], 0.9: []}
    other = []
    for _ in range(8):  # the product codes are drawn anew each time and move the recall
        trade = trade_declarations(4_000, rng=rng)
        blocks = block(trade.exports, trade.imports, ["exporter_id", "hs6"])
        filters = [encode(f, PprlCompat()) for f in (trade.exports, trade.imports)]
        for dice, found in recalls.items():
            links = link(*filters, blocks, threshold=dice)
            found.append(links.accuracy(trade.truth()).recall)
        integers = PprlCompat(doubles=())
        links = link(
            encode(trade.exports, integers),
            encode(trade.imports, integers),
            blocks,
            threshold=0.8,
        )
        other.append(links.accuracy(trade.truth()).recall)
    assert np.mean(recalls[0.8]) == pytest.approx(0.949, abs=0.006)
    assert np.mean(recalls[0.9]) == pytest.approx(0.796, abs=0.012)
    assert np.mean(other) < 0.9


@pytest.mark.parametrize("by", [None, "preferential_code"])
def test_chunks_are_equal_parts_in_file_order_and_both_files_agree(by):
    trade = trade_declarations(600, rng=np.random.default_rng(6), preferential_share=0.25)
    cut = trade.cut(6, by=by)
    imports = cut.imports
    assert imports["chunk"].value_counts().to_dict() == dict.fromkeys(range(6), 100)
    matched = imports["chunk"].to_numpy()[cut.truth()]
    assert np.array_equal(matched, cut.exports["chunk"])
    if by is None:
        assert imports["chunk"].is_monotonic_increasing
    else:
        assert (imports.groupby(["chunk", by]).size().unstack() == [75, 25]).all(axis=None)
        assert imports.groupby(by)["chunk"].apply(lambda c: c.is_monotonic_increasing).all()


@pytest.mark.parametrize(
    ("keys", "threshold", "defined"),
    [(["exporter_id"], 0.8, True), (["exporter_id", "hs6"], 0.75, False)],
)
def test_rates_and_totals_of_chunks_are_those_of_each_chunk_alone(keys, threshold, defined):
    trade = trade_declarations(2000, rng=np.random.default_rng(8)).cut(4)
    files = trade.exports, trade.imports
    truth = trade.truth()
    filters = [encode(f, PprlCompat()) for f in files]
    links = link(*filters, block(*files, ["chunk", *keys]), threshold=threshold)
    chunk = trade.exports["chunk"].to_numpy()
    x = trade.exports["value"].to_numpy() / 1e6
    z = (trade.imports["preferential_code"] == 300).to_numpy(dtype=float)
    columns = chunk_estimates(links, chunk, truth, {"x": x}, z)
    for number in range(4):
        rows = [np.flatnonzero(f["chunk"] == number) for f in files]
        part = [f.iloc[r] for f, r in zip(files, rows, strict=True)]
        alone = link(
            *(encode(f, PprlCompat()) for f in part), block(*part, keys), threshold=threshold
        )
        place = np.full(len(truth), -1)
        place[rows[1]] = np.arange(500)
        actual = alone.accuracy(place[truth[rows[0]]])
        assert actual.false_links > 0
        assert columns["recall_actual"][number] == actual.recall
        assert columns["fpr_actual"][number] == pytest.approx(actual.fpr)
        fit = fit_many(np.bincount(alone.n_linked)[None])[0]
        ratio = fit[1] / (alone.n_blocked.mean() - 1)
        assert columns["recall_estimate"][number] == pytest.approx(fit[0])
        assert columns["fpr_estimate"][number] == pytest.approx(fit[1] / 499)
        here = x[rows[0]], z[rows[1]]
        assert columns["x_actual"][number] == pytest.approx(here[0] @ z[truth[rows[0]]])
        assert columns["x_naive"][number] == pytest.approx(naive(alone, *here).estimate)
        assert columns["x_blocked"][number] == pytest.approx(alone.blocks.total(*here))
        as_published = published(alone, *here, recall=actual.recall, fpr=actual.fpr).estimate
        assert columns["x_adjusted_published"][number] == pytest.approx(as_published)
        if defined:
            as_described = para23(alone, *here, recall=fit[0], ratio=ratio).estimate
            assert columns["x_adjusted_described"][number] == pytest.approx(as_described)
        else:
            assert np.isnan(columns["x_adjusted_described"][number])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: trade_declarations(0, rng=np.random.default_rng()), "at least 1"),
        (
            lambda: trade_declarations(9, rng=np.random.default_rng(), id_digits=1),
            "one of 2, 3, 4, 5, 6",
        ),
        (lambda: Typos(error_rate=20), "for 20 % pass 0.2"),
        (lambda: Typos(date_sd_days=-1), "cannot be negative"),
    ],
)
def test_bad_input_is_one_clear_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()

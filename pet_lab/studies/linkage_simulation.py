"""Linkage with typos: the published Monte Carlo study in chunks of 100, and the same at scale.

UNECE Input Privacy-Preservation final report, paragraphs 18-38, tables 2.4 to 2.9. Files are linked
exactly or by Bloom filters, error rates are estimated from neighbour counts, totals are corrected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import SeedSequence

from pet_lab import linkage
from pet_lab.linkage.bloom import Encoding, balance, frequency_attack, xor_fold
from pet_lab.linkage.chunks import chunk_rates, chunk_totals
from pet_lab.linkage.filters import check_threshold
from pet_lab.linkage.neighbours import fit_neighbours, fit_overlap, fit_slope
from pet_lab.linkage.totals import every, or_none
from pet_lab.linkage.trade import TradeDeclarations, Typos, check_study, trade_declarations
from pet_lab.rows import Claim, Rows, concat, wide

BLOCK_ON = ["exporter_id", "hs6"]
COMPARE_ON = ["date", "value"]
CHUNK_SIZE = CHUNKS_PER_FILE = 100  # the publication cuts 100 chunks from 10,000 records
COUNT = "transactions_ge_500k_small_preferential"
VALUE = "value_millions_small_preferential"
_DEMO_KEY = b"a demonstration key, not a secret"
ENCODINGS: dict[str, Encoding] = {
    "pprl-compat": linkage.PprlCompat(),
    "textbook record-level filter": linkage.RecordFilter(key=_DEMO_KEY),
    "one filter for all fields (CLK)": linkage.LongTermKey(key=_DEMO_KEY),
}
PPRL = ENCODINGS["pprl-compat"]
LABELS = {
    "records": "records in each file",
    "share_of_blocked": "share of blocked non-matches linked",
    "recall.error": "error of the estimated recall",
    "rmse": "relative RMSE of the count",
}


def check(
    *,
    error_rate: float,
    thresholds: Sequence[float],
    repetitions: int,
    sizes: Sequence[int],
    size_repetitions: Sequence[int],
    scale_threshold: float,
    curve_records: int,
    seed: int,
) -> None:
    """Refuse parameters that cannot go together, before anything is drawn."""
    if not thresholds or len(set(thresholds)) < len(thresholds):
        raise ValueError(f"thresholds are one or more different Dice values, got {thresholds}.")
    for threshold in (*thresholds, scale_threshold):
        check_threshold(threshold)
    if not sizes or len(set(sizes)) < len(sizes) or len(sizes) != len(size_repetitions):
        raise ValueError(
            "sizes are different numbers of records, size_repetitions as many numbers of "
            f"repetitions, got {sizes} and {size_repetitions}; pass lists of equal length."
        )
    counts = {"repetitions": (repetitions, 2), "curve_records": (curve_records, CHUNK_SIZE)}
    counts |= {"each of sizes": (min(sizes), CHUNK_SIZE)}  # below, totals are mostly 0
    counts |= {"each of size_repetitions": (min(size_repetitions), 2)}
    check_study(error_rate=error_rate, seed=seed, at_least=counts)


def simulate(
    *,
    error_rate: float,
    thresholds: Sequence[float],
    repetitions: int,
    sizes: Mapping[int, int],
    scale_threshold: float,
    curve_records: int,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The whole study; parameters as in the notebook, `sizes` from records to repetitions.

    Returns
    -------
    chunks : wide, one row per design and chunk, as `chunk_study` returns them
    rows : tidy: tables 2.4-2.9, errors at scale, threshold curves, rules, attack, overlap
    """
    typos = Typos(error_rate=error_rate)
    names = ["data", "chunks", "scale", "overlap", "related"]
    streams = dict(zip(names, SeedSequence(seed).spawn(len(names)), strict=True))
    chunks = chunk_study(
        dices=[None, *thresholds], repetitions=repetitions, seed=streams["chunks"], typos=typos
    )
    at_scale = partial(scale, dice=scale_threshold, typos=typos)
    related = at_scale({max(sizes): 2}, seed=streams["related"], value_effect=1.0)
    trade = trade_declarations(
        curve_records, rng=np.random.default_rng(streams["data"]), typos=typos
    )
    rows = concat(
        printed(chunks),
        at_scale(sizes, seed=streams["scale"]),
        related.assign(metric="related." + related["metric"]),
        curves(trade),
        rules(trade),
        attack(seed, typos),
        coverage(streams["overlap"], typos),
        calibration(streams["data"], typos),
    )
    return chunks, rows.assign(replicates_n=rows["replicates_n"].fillna(1).astype(int))


def analytic(trade: TradeDeclarations) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The exporter's variables by name of the total, and the importer's: the tariff preference."""
    small = (trade.exports["exporter_size"] == "small").to_numpy()
    value = trade.exports["value"].to_numpy(dtype=float)
    preferential = (trade.imports["preferential_code"] == 300).to_numpy(dtype=float)
    return {COUNT: small * (value >= 500_000), VALUE: small * value / 1e6}, preferential


def bloom_links(trade: TradeDeclarations, encoding: Encoding, dice: float) -> linkage.Links:
    """The blocked pairs whose filters reach a Dice."""
    blocks = linkage.block(*trade.files, BLOCK_ON)
    return linkage.link(*_filters(trade, encoding), blocks, threshold=dice)


def _filters(
    trade: TradeDeclarations, encoding: Encoding
) -> tuple[linkage.Filters, linkage.Filters]:
    return linkage.encode(trade.exports, encoding), linkage.encode(trade.imports, encoding)


# --------------------------------------------------------------------------------------------------
# Chunks of 100 records


def chunk_study(
    *,
    dices: Sequence[float | None],
    repetitions: int,
    seed: SeedSequence,
    typos: Typos | None = None,
    stratified: Sequence[bool] = (True, False),
) -> pd.DataFrame:
    """Replicates of the published experiment, one row per design and chunk.

    dices        Dice thresholds of the Bloom comparison; None compares exactly
    repetitions  chunks per design; every design sees the same files, one random stream each
    stratified   True: 25 of every 100 records preferential, as in the authors' program; False:
                 plain random chunks, as the text reads
    """
    parts = []
    for number, stream in enumerate(seed.spawn(-(-repetitions // CHUNKS_PER_FILE))):
        for by_code in stratified:
            trade = trade_declarations(
                CHUNK_SIZE * CHUNKS_PER_FILE,
                rng=np.random.default_rng(stream),
                typos=typos,
                preferential_share=0.25 if by_code else None,
            ).cut(CHUNKS_PER_FILE, by="preferential_code" if by_code else None)
            (x, z), chunk = analytic(trade), trade.exports["chunk"].to_numpy()
            for dice, links in _linked(trade, dices):
                rates = chunk_rates(links, chunk, trade.truth())
                columns = {
                    "comparison": "exact" if dice is None else "bloom",
                    "dice": np.nan if dice is None else dice,
                    "stratified": by_code,
                    "replicate": number * CHUNKS_PER_FILE + np.arange(CHUNKS_PER_FILE),
                    "recall_actual": rates.recall,
                    "recall_estimate": rates.recall_estimate,
                    "fpr_actual": rates.fpr,
                    "fpr_estimate": rates.fpr_estimate,
                }
                for total, variable in x.items():
                    sums = chunk_totals(links, rates, variable, z)
                    columns |= {f"{total}_{name}": values for name, values in sums.items()}
                parts.append(pd.DataFrame(columns))
    frame = pd.concat(parts, ignore_index=True)
    return frame[frame["replicate"] < repetitions].reset_index(drop=True)


def _linked(
    trade: TradeDeclarations, dices: Sequence[float | None]
) -> Iterator[tuple[float | None, linkage.Links]]:
    keys = ["chunk", *BLOCK_ON]
    if any(dice is not None for dice in dices):
        filters, blocks = _filters(trade, PPRL), linkage.block(*trade.files, keys)
    for dice in dices:
        if dice is None:
            yield None, linkage.link_exact(*trade.files, block_on=keys, on=COMPARE_ON)
        else:
            yield dice, linkage.link(*filters, blocks, threshold=dice)


def moments(values: pd.Series, name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation over replicates as metrics, and the standard error of each.

    The publication calls the standard deviation over its 100 repetitions "standard error". Its own
    standard error is by the delta method with the fourth moment,
    sd / 2 sqrt((kurtosis - 1 + 2 / (n - 1)) / n), which is sd / sqrt(2 (n - 1)) for a normal.
    """
    n, mean, sd = values.size, values.mean(), values.std()
    # A quantity that never varies is known to no more than "less than one unit in n".
    kurtosis = ((values - mean) ** 4).mean() / max(values.var(ddof=0) ** 2, 1e-300)
    sd_se = sd / 2 * np.sqrt(max(kurtosis - 1, 0) / n + 2 / (n * (n - 1)))
    first, second = f"{name}.mean", f"{name}.standard_error"
    return {first: mean, second: sd}, {first: sd / np.sqrt(n), second: sd_se}


def printed(chunks: pd.DataFrame) -> pd.DataFrame:
    """Rows for tables 2.4-2.9 from a chunk study.

    "published" takes the stratified chunks and what the authors' program stores: actual rates under
    "estimate", and totals corrected with actual rates and without the division by the blocking FPR.
    "described" takes plain random chunks, the model's estimates and paragraph 23; repetitions where
    that is undefined are left out of its moments, and their share is a row of its own.
    """
    rows = Rows(records=CHUNK_SIZE)
    for reading, by_code in (("published", True), ("described", False)):
        cells = [(rate, "actual", f"{rate}_actual") for rate in ("recall", "fpr")]
        stored = "actual" if by_code else "estimate"
        cells += [(rate, "estimate", f"{rate}_{stored}") for rate in ("recall", "fpr")]
        for total in (COUNT, VALUE):
            cells += [(total, name, f"{total}_{name}") for name in ("actual", "naive")]
            cells.append((total, "adjusted", f"{total}_adjusted_{reading}"))
        designs = chunks[chunks["stratified"] == by_code]
        for (comparison, dice), part in designs.groupby(
            ["comparison", "dice"], sort=False, dropna=False
        ):
            factors: Any = {"reading": reading, "comparison": comparison, "dice": dice}
            for name, estimator, column in cells:
                values = part[column].dropna()
                if (n := len(values)) > 1:
                    mean, se = moments(values, name)
                    rows.add(metrics=mean, se=se, estimator=estimator, replicates_n=n, **factors)
            name, n = "adjusted_undefined.share", len(part)
            share = part[f"{COUNT}_adjusted_{reading}"].isna().mean()
            se = {name: np.sqrt(share * (1 - share) / n)}
            rows.add(metrics={name: share}, se=se, estimator="adjusted", replicates_n=n, **factors)
    return rows.frame()


# --------------------------------------------------------------------------------------------------
# The same at scale


def scale(
    sizes: Mapping[int, int], *, dice: float, seed: SeedSequence, typos: Typos, **trade: Any
) -> pd.DataFrame:
    """Errors of recall and relative errors of totals, of every estimator at every size.

    `sizes` maps records in each file to replicates, `trade` goes to `trade_declarations`. Metrics
    "..covered" say whether the estimator's 95 % interval, where it has one, holds the actual value;
    an undefined estimate has no row.
    """
    rows = Rows(comparison="bloom", dice=dice)
    for (records, replicates), of_size in zip(sizes.items(), seed.spawn(len(sizes)), strict=True):
        for replicate, stream in enumerate(of_size.spawn(replicates)):
            rng = np.random.default_rng(stream)
            drawn = trade_declarations(records, rng=rng, typos=typos, **trade)
            for _, metric, name, estimate, low, high, actual in _estimates(drawn, PPRL, dice):
                unit = 1.0 if metric == "recall.error" else actual
                if not np.isnan(estimate) and unit:
                    metrics = {metric: (estimate - actual) / unit}
                    if not np.isnan(low):
                        slack = 1e-12 * unit  # of an exact total
                        inside = low - slack <= actual <= high + slack
                        metrics[f"{metric}.covered"] = inside
                    rows.add(
                        metrics=metrics,
                        records=records,
                        replicate=replicate,
                        estimator=name,
                        reading="published" if name == "published" else "described",
                    )
    return rows.frame()


def _estimates(
    trade: TradeDeclarations, encoding: Encoding, dice: float
) -> Iterator[tuple[str, str, str, float, float, float, float]]:
    """(quantity, metric of its error, estimator, estimate, its 95 % interval, actual value)."""
    unknown = np.nan, np.nan, np.nan
    links, truth = bloom_links(trade, encoding, dice), trade.truth()
    rates = links.accuracy(truth)
    mixture = or_none(partial(fit_neighbours, links.n_linked, n_other=links.n_b))
    slope = or_none(partial(fit_slope, links.n_blocked, links.n_linked, links.blocks.code_a))
    for name, fit in (("mixture", mixture), ("slope", slope)):
        known = (fit.recall, *fit.interval()) if fit else unknown
        yield "recall", "recall.error", name, *known, rates.recall
    x, z = analytic(trade)
    for total, variable in x.items():
        actual = float(variable @ z[truth])
        corrected_by = every(links, variable, z, actual=rates, mixture=mixture, slope=slope)
        for name, corrected in corrected_by.items():
            known = (corrected.estimate, *corrected.interval()) if corrected else unknown
            yield total, f"{total}.relative_error", name, *known, actual


def errors(rows: pd.DataFrame) -> pd.DataFrame:
    """Bias, RMSE and coverage by metric, estimator and size, with Monte Carlo standard errors.

    covered    share of 95 % intervals that hold the truth; NaN without intervals
    undefined  share of replicates without an estimate
    """
    keys = ["metric", "estimator", "records"]
    covered = rows[rows["metric"].str.endswith("error.covered")]
    covered = covered.assign(metric=covered["metric"].str.removesuffix(".covered"))
    part = rows[rows["metric"].str.contains(r"\.(?:relative_)?error$")]
    table = (
        part.assign(
            replicates=part.groupby(["metric", "records"])["replicate"].transform("nunique"),
            square=part["value"] ** 2,
        )
        .groupby(keys, sort=False)
        .agg(
            bias=("value", "mean"),
            bias_se=("value", "sem"),
            rmse=("square", "mean"),
            rmse_se=("square", "sem"),
            undefined=("value", "size"),
            replicates=("replicates", "first"),
        )
    )
    table["covered"] = covered.groupby(keys)["value"].mean()
    table["rmse"] **= 0.5
    table["rmse_se"] /= 2 * table["rmse"]  # delta method
    table["undefined"] = 1 - table["undefined"] / table["replicates"]
    return table.reset_index()


# --------------------------------------------------------------------------------------------------
# Thresholds, rules, attack, overlap, calibration


def threshold_curve(
    trade: TradeDeclarations, encoding: Encoding, thresholds: Sequence[float]
) -> Iterator[tuple[float, float, float]]:
    """(threshold, recall, share of blocked non-matches linked), from one comparison."""
    loosest, truth = bloom_links(trade, encoding, min(thresholds)), trade.truth()
    for level in thresholds:
        actual = loosest.keep(loosest.similarity >= level).accuracy(truth)
        nonmatches = max(loosest.blocks.n_pairs - actual.matches, 1)
        yield level, actual.recall, actual.false_links / nonmatches


def curves(trade: TradeDeclarations) -> pd.DataFrame:
    """The threshold curve of each encoding, thresholds from .5 to .95."""
    rows = Rows(records=len(trade.exports), reading="described", comparison="bloom")
    levels = np.round(np.arange(0.5, 0.96, 0.01), 2)
    for name, encoding in ENCODINGS.items():
        for level, recall, share in threshold_curve(trade, encoding, levels):
            metrics = {"curve.recall": recall, "curve.share_of_blocked": share}
            rows.add(encoding=name, dice=level, metrics=metrics)
    return rows.frame()


def rules(trade: TradeDeclarations) -> pd.DataFrame:
    """Links, recall and precision of linkage rules; Splink sees dates and values in clear."""
    strict, loose = bloom_links(trade, PPRL, 0.8), bloom_links(trade, PPRL, 0.6)
    keys = [linkage.block(*trade.files, key) for key in (BLOCK_ON, ["exporter_id", "date"])]
    either = linkage.link(*_filters(trade, PPRL), keys, threshold=0.8)
    splink = or_none(partial(linkage.splink_links, *trade.files, probability=1e-6))
    by_rule = {
        "blocking key alone": bloom_links(trade, PPRL, 0.0),
        "exact": linkage.link_exact(*trade.files, block_on=BLOCK_ON, on=COMPARE_ON),
        "Bloom, Dice 0.8": strict,
        "Bloom, Dice 0.8, also by exporter and date": either,
        "Bloom, Dice 0.8, one to one": linkage.resolve(strict),
        "Bloom, Dice 0.6, one to one": linkage.resolve(loose),
        "Bloom, Dice 0.6, best one to one": linkage.resolve(loose, method="optimal"),
    }
    rows = Rows(records=len(trade.exports), reading="described")
    if splink is None:
        name = "Splink, not fitted: no pair agrees in what it is trained on"
        rows.add(setting=name, metrics={"rule.links": 0})
    else:
        by_rule["Splink, probability 0.5"] = splink.keep(splink.similarity >= 0.5)
        by_rule["Splink, probability above 1e-6, one to one"] = linkage.resolve(splink)
    for name, links in by_rule.items():
        actual = links.accuracy(trade.truth())
        rates = {"rule.recall": actual.recall, "rule.precision": actual.precision}
        rows.add(setting=name, metrics={"rule.links": len(links)} | rates)
    return rows.frame()


def attack(seed: int, typos: Typos) -> pd.DataFrame:
    """Share of records whose exporter a frequency attack names without the key.

    The worst case: exporters differ much in size, and the attacker knows the exact shares.
    """
    rng = np.random.default_rng(seed)
    exports = trade_declarations(20_000, rng=rng, typos=typos, concentration=1.5).exports
    clk, exporter = ENCODINGS["one filter for all fields (CLK)"], exports["exporter_id"]
    of_exporter = partial(linkage.encode, exports, clk, fields=["exporter_id"])
    filters = {
        "exporter alone": of_exporter(),
        "exporter alone, XOR-folded": xor_fold(of_exporter()),
        "exporter alone, balanced": balance(of_exporter(), key=_DEMO_KEY),
        "exporter alone, salted by product": of_exporter(salt=exports["hs6"]),
        "whole record": linkage.encode(exports, clk),
    }
    shares = exporter.value_counts(normalize=True).to_dict()
    rows = Rows(records=len(exports), reading="described")
    for name, encoded in filters.items():
        named = frequency_attack(encoded, exporter.to_numpy(), shares)
        rows.add(setting=name, metrics={"attack.named": named})
    return rows.frame()


def coverage(seed: SeedSequence, typos: Typos) -> pd.DataFrame:
    """Coverage estimated on 80 % samples of 100,000 records, by SD of the log size of exporters.

    By the blocked neighbours of exact links, and by the mixture of the published notes.
    """
    rows = Rows(records=100_000, reading="described")
    for spread in (0.0, 1.0):
        for replicate, stream in enumerate(seed.spawn(4)):
            rng = np.random.default_rng(stream)
            trade = trade_declarations(100_000, rng=rng, typos=typos, concentration=spread)
            part = trade.sample(0.8, rng)
            links = linkage.link_exact(*part.files, block_on=BLOCK_ON, on=COMPARE_ON)
            fit = fit_overlap(links.n_blocked, links.n_linked, links.blocks.code_a)
            model = fit_neighbours(links.n_blocked, n_other=links.n_b, reading="published")
            actual, (low, high) = float((part.truth() >= 0).mean()), fit.interval()
            metrics = {
                "coverage.actual": actual,
                "coverage.from links": fit.coverage,
                "coverage.interval holds it": low <= actual <= high,
                "coverage.from the mixture": model.recall,
                "coverage.classes of the mixture": len(model.lambdas),
            }
            rows.add(setting=f"{spread:g}", replicate=replicate, metrics=metrics)
    return rows.frame()


def calibration(seed: SeedSequence, typos: Typos) -> pd.DataFrame:
    """Recall by storage type and look of the identifiers: what decides the printed recalls."""
    all_doubles = linkage.PprlCompat(doubles=("exporter_id", "hs6", "value"))
    looks = [
        ("R types: value as R double, ids as R integers", 3, PPRL),
        ("R types: all as R integers", 3, linkage.PprlCompat(doubles=())),
        ("R types: all as R doubles", 3, all_doubles),
        *((f"exporter ids of {digits} characters", digits, PPRL) for digits in (2, 4)),
        *((name, 3, encoding) for name, encoding in ENCODINGS.items() if encoding is not PPRL),
    ]
    rows = Rows(records=2000, reading="described")
    for name, digits, encoding in looks:
        for replicate, stream in enumerate(seed.spawn(6)):  # product codes move the recall
            rng = np.random.default_rng(stream)
            trade = trade_declarations(2000, rng=rng, typos=typos, id_digits=digits)
            curve = threshold_curve(trade, encoding, [0.8, 0.9])
            recalls = {f"calibration.recall at {level}": recall for level, recall, _ in curve}
            rows.add(setting=name, replicate=replicate, metrics=recalls)
    return rows.frame()


# --------------------------------------------------------------------------------------------------
# What is shown, and what follows


def transactions(seed: int, records: int, error_rate: float) -> TradeDeclarations:
    """The files behind the threshold curve, the rules and the pictures."""
    rng = np.random.default_rng(SeedSequence(seed).spawn(1)[0])
    return trade_declarations(records, rng=rng, typos=Typos(error_rate=error_rate))


def both_sides(trade: TradeDeclarations) -> pd.DataFrame:
    """Three transactions as exporter and importer declare them."""
    exports, keys = trade.exports.head(3), ["declaration", *BLOCK_ON]
    both = exports.merge(trade.imports, on=keys, suffixes=(" exported", " imported"))
    return both.drop(columns="declaration").astype(str)


def filter_bits(trade: TradeDeclarations) -> tuple[pd.DataFrame, float]:
    """Bits of the two filters of a transaction with a typo, 50 to a row, and their Dice."""
    imports = trade.imports.iloc[trade.truth()].reset_index(drop=True)
    typo = int(np.argmax(trade.exports["value"] != imports["value"]))
    one, other = (linkage.encode(f.iloc[[typo]], PPRL) for f in (trade.exports, imports))
    owner = one.unpacked()[0] + 2 * other.unpacked()[0]
    at = np.flatnonzero(owner)
    names = np.array(["", "exporter only", "importer only", "both"])
    bits = pd.DataFrame({"row": at // 50, "bit in the row": at % 50, "set by": names[owner[at]]})
    return bits, float(linkage.dice_pairs(one, other, np.array([0]), np.array([0]))[0])


def table(rows: pd.DataFrame, part: str, index: str | list[str] = "setting") -> pd.DataFrame:
    """Means of the metrics of one part ("rule", "attack", "curve", ..), one column each."""
    chosen = rows[rows["metric"].str.startswith(f"{part}.")]
    return wide(chosen.assign(metric=chosen["metric"].str.removeprefix(f"{part}.")), index=index)


def rmse_by_size(rows: pd.DataFrame) -> pd.DataFrame:
    """RMSE of the count with its standard error, for the picture; without what is exact."""
    chosen = errors(rows).query(f"metric == '{COUNT}.relative_error' and rmse > 0")
    return chosen.assign(mean=chosen["rmse"], se=chosen["rmse_se"], metric="rmse")


def headline(rows: pd.DataFrame) -> Claim:
    """How far the published correction, paragraph 23 and the resolved total are off."""
    count = errors(rows).query(f"metric == '{COUNT}.relative_error'")
    largest = count[count["records"] == count["records"].max()].set_index("estimator")
    return Claim(
        "At {n:,} records the published correction misses the count by {published:+.0%} on "
        "average, paragraph 23 by {para23:.1%} and the resolved total by {resolved:.2%} (RMSE).",
        n=largest["records"].iloc[0],
        published=largest["bias"]["published"],
        **largest["rmse"].reindex(["para23", "resolved"]).to_dict(),
    )


def takeaways(chunks: pd.DataFrame, rows: pd.DataFrame) -> list[Claim]:
    """What the chunks and the rows bear out."""
    return [*_chunk_claims(chunks), *_scale_claims(rows)]


def _chunk_claims(chunks: pd.DataFrame) -> Iterator[Claim]:
    by_code = chunks[chunks["stratified"]]
    exact = by_code[by_code["comparison"] == "exact"]
    random = chunks[(chunks["comparison"] == "exact") & ~chunks["stratified"]]
    loose = by_code[by_code["dice"] == by_code["dice"].min()]
    actual, published = f"{COUNT}_actual", f"{COUNT}_adjusted_published"
    miss = {
        "recall": loose["recall_estimate"] - loose["recall_actual"],
        "published": loose[published] - loose[actual],
        "blocked": loose[f"{COUNT}_blocked"] - loose[actual],
    }
    rmse: Any = {name: float(np.sqrt((error**2).mean())) for name, error in miss.items()}
    yield Claim(
        "In chunks of 100 the model misses the recall by {recall:.4f} (RMSE) and hits it exactly "
        "in {same:.0%} of the chunks; the published program never measured this.",
        holds=rmse["recall"] < 0.005,
        same=(miss["recall"].abs() < 1e-6).mean(),
        **rmse,
    )
    yield Claim(
        "In chunks of 100 no linkage was needed: the count over all blocked pairs has an RMSE of "
        "{blocked:.2f}, the corrected one {published:.2f}.",
        holds=rmse["blocked"] < rmse["published"],
        **rmse,
    )
    overshoot = exact[published].mean() / exact[actual].mean() - 1
    yield Claim(
        "Under exact comparison the corrected count overshoots by {over:.1%}: {links:.1%} of the "
        "records are linked but {total:.1%} of the total. Typos lower the value, so links depend "
        "on the analytical variable, against paragraph 22.",
        holds=overshoot > 0,
        over=overshoot,
        links=exact["recall_actual"].mean(),
        total=exact[f"{COUNT}_naive"].mean() / exact[actual].mean(),
    )
    described = loose[f"{COUNT}_adjusted_described"]
    yield Claim(
        "Leaving out the division by the blocking FPR moves the count by {effect:+.2%} at 100 "
        "records; paragraph 23 is undefined in {share:.1%} of the chunks.",
        effect=loose[published].mean() / described.mean() - 1,
        share=described.isna().mean(),
    )
    yield Claim(
        "The actual count has a standard deviation of {by_code:.3f} in chunks with exactly 25 "
        "preferential records, as printed, and of {random:.3f} in random chunks.",
        holds=exact[actual].std() < random[actual].std(),
        by_code=exact[actual].std(),
        random=random[actual].std(),
    )


def _scale_claims(rows: pd.DataFrame) -> Iterator[Claim]:
    by_metric = dict(list(errors(rows).groupby("metric", sort=False)))
    count = by_metric[f"{COUNT}.relative_error"]
    bias = count[count["estimator"] == "published"].set_index("records")["bias"]
    yield Claim(
        "The bias of the published correction grows with the file: {sizes} records.",
        holds=bias.iloc[-1] > max(0.0, bias.iloc[0]),
        sizes=", ".join(f"{b:+.1%} at {n:,}" for n, b in bias.items()),
    )
    rmse = count.pivot(index="records", columns="estimator", values="rmse").dropna(subset="para23")
    yield Claim(
        "At every size the resolved total has a smaller error than paragraph 23: {sizes} (RMSE).",
        holds=bool((rmse["resolved"] < rmse["para23"]).all()),
        otherwise="The resolved total is not always better than paragraph 23: {sizes} (RMSE).",
        sizes=", ".join(
            f"{resolved:.2%} against {para23:.2%} at {n:,}"
            for n, resolved, para23 in rmse[["resolved", "para23"]].itertuples()
        ),
    )
    recall = by_metric["recall.error"]
    recall = recall[recall["records"] == recall["records"].max()].set_index("estimator")["bias"]
    yield Claim(
        "At {n:,} records the mixture misses the recall by {mixture:+.4f}, the line by "
        "{slope:+.4f}.",
        holds=abs(recall.get("slope", np.nan)) < abs(recall.get("mixture", np.nan)),
        n=bias.index[-1],
        **recall.reindex(["mixture", "slope"]).to_dict(),
    )
    related = by_metric[f"related.{COUNT}.relative_error"].set_index("estimator")["rmse"]
    yield Claim(
        "Where tariff use depends on the value inside a block, the blocks alone miss the count by "
        "{blocks_only:.1%}, the within-block total by {within_block:.1%} and the resolved one by "
        "{resolved:.2%} (RMSE, {n:,} records).",
        holds=related["resolved"] < related["blocks_only"],
        n=bias.index[-1],
        **{name: related[name] for name in ("blocks_only", "within_block", "resolved")},
    )
    named = table(rows, "attack").set_index("setting")["named"]
    alone, salted = named["exporter alone"], named["exporter alone, salted by product"]
    yield Claim(
        "Bloom filters can be compared, so they can be counted: where exporters differ in size, a "
        "filter of the exporter alone names {alone:.0%} of them, salted by product {salted:.1%}.",
        holds=alone > 0.5 > salted,
        alone=alone,
        salted=salted,
    )


def glance(
    error_rate: float = 0.2,
    threshold: float = 0.8,
    chunk_size: int = 1000,
    encoding: str = "pprl-compat",
    seed: int = 1,
) -> pd.DataFrame:
    """One linkage and what each estimator makes of it, one row each: behind the explore panel."""
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding is one of {list(ENCODINGS)}, got {encoding!r}.")
    rng = np.random.default_rng(seed)
    trade = trade_declarations(chunk_size, rng=rng, typos=Typos(error_rate=error_rate))
    columns = ["quantity", "metric", "estimator", "value", "low", "high", "actual"]
    estimates = _estimates(trade, ENCODINGS[encoding], threshold)
    return pd.DataFrame(estimates, columns=columns).drop(columns="metric")

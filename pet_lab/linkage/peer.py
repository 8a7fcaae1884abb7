"""Splink's probabilistic linkage on the same declarations: the peer of one comparison."""

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import require
from pet_lab.linkage.blocking import Links, block
from pet_lab.linkage.neighbours import NotIdentified


def splink_links(
    a: pd.DataFrame, b: pd.DataFrame, *, probability: float = 0.5, seed: int = 1
) -> Links:
    """Links by a Fellegi-Sunter model that Splink fits without labels, inside the same blocks.

    Date is compared exactly, within 7 and 30 days; value exactly, within 5, 15 and 30 percent.
    Pairs at or above the match probability are linked, with it as similarity; the seed is that of
    Splink's sample for the u probabilities. NotIdentified if no pair agrees in date and value:
    Splink is trained on those that do. Asks for the extra `link`.
    """
    import duckdb
    from splink import DuckDBAPI, Linker, SettingsCreator, block_on
    from splink import comparison_library as cl

    trainable = block(a, b, ["date", "value"]).n_pairs
    untrained = "Splink is trained on pairs that agree in date and value; none does."
    require(trainable, untrained, NotIdentified)
    keys, others = ["exporter_id", "hs6"], ["date", "value"]
    frames: Any = [frame[keys + others].assign(unique_id=np.arange(len(frame))) for frame in (a, b)]
    near = [
        f"abs(value_l - value_r) <= {share} * greatest(abs(value_l), abs(value_r))"
        for share in (0.05, 0.15, 0.30)
    ]
    missing = {"sql_condition": "value_l IS NULL OR value_r IS NULL", "is_null_level": True}
    levels = [{"sql_condition": sql} for sql in ("value_l = value_r", *near, "ELSE")]
    settings = SettingsCreator(
        link_type="link_only",
        comparisons=[
            # Compared too, though blocked on: their agreement is the evidence that lifts the prior.
            cl.ExactMatch("exporter_id"),
            cl.ExactMatch("hs6"),
            cl.AbsoluteDateDifferenceAtThresholds(
                "date", input_is_string=False, metrics=["day", "day"], thresholds=[7, 30]
            ),
            cl.CustomComparison(output_column_name="value", comparison_levels=[missing, *levels]),
        ],
        blocking_rules_to_generate_predictions=[block_on(*keys)],
        retain_intermediate_calculation_columns=False,
    )
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Splink reports every EM step on its own handlers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            connection = duckdb.connect()
            connection.execute("SET enable_progress_bar = false")  # a widget in notebooks
            api = DuckDBAPI(connection=connection)
            linker = Linker(frames, settings, api, input_table_aliases=["a", "b"])
            training = linker.training
            training.estimate_probability_two_random_records_match(
                [block_on(*keys, *others)], recall=0.8
            )
            training.estimate_u_using_random_sampling(max_pairs=2e6, seed=seed)
            for known in (others, keys):
                training.estimate_parameters_using_expectation_maximisation(
                    block_on(*known), fix_u_probabilities=True
                )
            predicted = linker.inference.predict(threshold_match_probability=probability)
            table = predicted.as_pandas_dataframe()
    finally:
        logging.disable(before)
    of_a = table["source_dataset_l"] == "a"
    left, right = table["unique_id_l"], table["unique_id_r"]
    blocks = block(a, b, keys)
    return Links(
        i=np.where(of_a, left, right).astype(np.int64),
        j=np.where(of_a, right, left).astype(np.int64),
        similarity=table["match_probability"].to_numpy(dtype=float),
        n_blocked=blocks.neighbours,
        blocks=blocks,
    )

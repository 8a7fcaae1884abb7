"""The protocol on declarations without typos: counts, costs, turns, leakage, claims."""

import numpy as np
import pandas as pd
import pytest

from pet_lab import data
from pet_lab.rows import concat
from pet_lab.studies import protocol as study

N = 2000


@pytest.fixture(scope="module")
def files():
    return study.files(N, seed=1)


@pytest.fixture(scope="module")
def rows(files):
    run = study.run(files, engine="ecdh", min_cell=10, processes=False)
    small = study.small_run(files, 300)
    return concat(
        study.counts(files, run.table),
        study.cost(run, files, engine="ecdh", processes=False, sessions=2),
        study.growth(files, [200, 2000], [50]),
        study.round_trips(files, 50, [40]),
        study.totals_by_scheme(files, paillier_rows=5),
        study.leakage(files, small),
    )


def test_further_sessions_are_timed(rows):
    times = rows[rows["metric"] == "wall_minutes"]
    assert times["replicate"].tolist() == [0, 1]
    assert times["value"].nunique() == 2  # each is a session of its own
    assert rows.loc[rows["metric"] == "common_keys", "value"].tolist() == [N, N]


def test_both_tables_and_both_readings_agree_with_the_file(rows, files):
    counted = rows[rows["metric"] == "transactions"]
    clear = files.common.value_counts(study.CELL)
    assert len(counted) == 16
    for row in counted.itertuples():
        assert row.value == clear[row.exporter_size, row.preferential_code]


def test_a_session_waits_as_often_as_the_protocol_takes_turns(rows):
    table = study.round_trip_table(rows).set_index("engine")
    turns = table["round trips waited for"].to_dict()
    assert turns == {"ecdh": 3.0, "ecdh-proved": 3.0, "openmined": 2.0, "rsa-2048": 2.5}
    # The last turn of RSA and of the others delays one side only: at least turns - 1 are waited.
    assert table.loc["ecdh", "40"] > 0.02 * 5


def test_claims_follow_the_rows(rows):
    assert study.headline(rows).text.startswith("4 of 4 counts of the linker are those of the file")
    wrong = rows.copy()
    of_linker = (wrong["table"] == "2.3") & (wrong["reading"] == "described")
    wrong.loc[of_linker.idxmax(), "value"] += 1
    assert study.headline(wrong).text.startswith("3 of 4 counts")
    leaked = rows.copy()
    leaked.loc[leaked["metric"] == "files_seen_on_the_wire", "value"] = 1
    assert "or their hashes, crossed the wire in the small" in study.takeaways(leaked)[2].text
    assert "times the CPU time of plain" in study.takeaways(rows)[-1].text
    free = rows.copy()
    free.loc[free["metric"] == "intersection_cpu_seconds", "value"] = 1.0
    assert "cost nothing that could be measured" in study.takeaways(free)[-1].text


def test_nothing_of_the_files_is_on_the_wire_and_frequencies_name_the_labels(rows):
    value = rows.set_index("metric")["value"]
    assert value["files_seen_on_the_wire"] == 0
    assert value["labels_named_by_frequency"] == value["labels"] == 2


def test_shares_are_exact(rows):
    table = study.totals_table(rows).set_index("scheme")
    assert table.loc["shares", "relative error"] == 0
    assert table["linkers"].to_dict() == study.LINKERS
    assert table.loc["paillier", "rows"] == 5


def test_own_files_give_counts_costs_and_claims_of_their_own(tmp_path):
    ids = [f"{i:03}" for i in range(40)]
    left = pd.DataFrame({"id": ids, "region": ["north", "south"] * 20})
    right = pd.DataFrame({"person": ids[10:], "size": (["small", "small", "large"] * 14)[10:40]})
    right["sum"] = np.arange(30) + 0.5
    for name, frame in (("left", left), ("right", right)):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    names = (str(tmp_path / f"{name}.csv") for name in ("left", "right"))
    pair = data.open_pair(*names, on=["id=person"], numbers=["sum"])
    own = study.files(0, seed=1, own=pair, value="sum")
    run = study.run(own, engine="ecdh", min_cell=1, processes=False)
    parts = [
        study.counts(own, run.table),
        study.cost(run, own, engine="ecdh", processes=False),
        study.growth(own, [1000, 3000], [300]),
        study.round_trips(own, 300, [1]),
        study.leakage(own, study.small_run(own)),
    ]
    rows = concat(*parts, study.totals_by_scheme(own, paillier_rows=2))
    clear = left.merge(right, left_on="id", right_on="person").value_counts(["size", "region"])
    of_linker = rows[(rows["table"] == "2.3") & (rows["reading"] == "described")]
    got = of_linker.set_index(study.OWN_CELL)["value"]
    assert got.to_dict() == clear.to_dict()
    text = study.headline(rows).text + " ".join(c.text for c in study.takeaways(rows))
    assert text.startswith("4 of 4 counts of the linker are those of the file; 40 by 30 keys took")
    assert "in the report" not in text
    assert "Totals need no" in text
    assert "Totals need no" not in "".join(c.text for c in study.takeaways(concat(*parts)))
    behind = study.contributions(rows)
    assert len(behind) == 8
    assert (behind["records"] == rows.loc[behind.index, "value"]).all()
    with pytest.raises(ValueError, match=r"one column of each file.*right has size, sum"):
        study.files(0, seed=1, own=pair)


def test_the_panel_holds_a_session(rows, files):
    shown, claim = study.what_if(
        files, rows, engine="ecdh", keys=100, round_trip_ms=10, both_follow_the_protocol=False
    )
    assert claim.text.startswith("100 keys a side with ecdh: 0.")
    assert "may reorder its answers" in claim.text
    assert (shown["engine"] == "your session").sum() == 1
    assert set(study.ENGINES) <= set(shown["engine"])

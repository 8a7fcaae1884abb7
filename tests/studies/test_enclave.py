"""The primer on enclaves: every attempt refused for its own reason, the model, the side channel."""

import numpy as np
import pytest

from pet_lab.studies import enclave as study


def settings(**changes):
    values = {"facilities": 2, "entry_bytes": [4, 64], "replicates": 1, "seed": 1}
    return study.Settings(**values | changes)


@pytest.fixture(scope="module")
def result():
    return study.simulate(settings())


REASONS = {
    study.HONEST: "",
    "tampered code": "Other code than agreed",
    "old version": "Version 1 is older than 2",
    "replayed quote": "replayed or wrong",
    "wrong nonce": "replayed or wrong",
    "signed by another maker's platform": "not of the maker we trust",
    "platform's certificate expired": "not valid today",
    "public key exchanged on the way": "not signed by its platform",
    "code of another author": "signed by another author",
    "version rolled back": "may not read what is newer",
    "sealed state rolled back": "State 1 was put back, the latest is 2",
    "uploaded data changed": "were changed",
}


def test_every_attempt_is_refused_for_its_own_reason(result):
    table = result[1].set_index("attempt")
    assert (table["outcome"] == "accepted").sum() == 1
    for attempt, reason in REASONS.items():
        assert reason in table.loc[attempt, "why"]
        assert (table.loc[attempt, "outcome"] == "accepted") == (attempt == study.HONEST)
    assert table["why"].drop(study.HONEST).str.fullmatch(r"[A-Z].*\.").all()


def test_the_tampered_program_would_give_records_away():
    table = np.arange(62.0).reshape(2, 31)
    table[:, -1] = [0, 1]
    raw = table.tobytes()
    assert study.train_and_keep({"a": raw}).endswith(table[-1].tobytes())
    assert not study.train({"a": raw}).endswith(table[-1].tobytes())


def test_the_model_from_inside_is_that_of_the_clear(result):
    rows = result[0]
    part = rows[rows["part"] == "training"].set_index(["facility", "metric"])["value"]
    assert part["together, inside", "gap"] == 0
    assert part["together, inside", "leaked"] == 0
    assert part["together, inside", "accuracy"] > 0.9


@pytest.mark.parametrize("granularity", [64, 4096])
@pytest.mark.parametrize("entry_bytes", [1, 4, 16, 64, 256, 4096])
def test_a_trace_gives_the_bits_of_the_units_that_the_table_covers(entry_bytes, granularity):
    seen = study.recovered("one look-up", entry_bytes=entry_bytes, granularity=granularity)
    units = max(1, study.ENTRIES * entry_bytes / granularity)
    assert seen == pytest.approx(min(8, np.log2(units)), abs=1e-12)
    scanned = study.recovered("scan of all", entry_bytes=entry_bytes, granularity=granularity)
    assert scanned == 0


def test_the_trace_recovers_a_secret_with_entries_of_a_line():
    table = study.explore(64, 64, 77).set_index("how")
    assert table.loc["one look-up", "which"] == "77 to 77"
    assert table.loc["scan of all", "secrets left"] == 256
    assert study.explore(4, 64, 77).set_index("how").loc["one look-up", "which"] == "64 to 79"
    with pytest.raises(ValueError, match="secret is from 0 to 255, got 256"):
        study.explore(4, 64, 256)


def test_claims_turn_with_their_rows(result):
    assert all(claim.holds for claim in study.takeaways(result[0]))
    broken = result[0].copy()
    broken.loc[broken["attempt"] == "old version", "value"] = 1
    broken.loc[broken["metric"] == "leaked", "value"] = 1
    claims = study.takeaways(broken)
    assert "the protocol does not hold" in claims[0].text
    assert "12 of 13" in claims[0].text
    assert claims[2].text == "The host saw records in the clear."


@pytest.mark.parametrize(
    "changes",
    [
        {"facilities": 1},
        {"facilities": 50},
        {"entry_bytes": []},
        {"entry_bytes": [3]},
        {"replicates": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)

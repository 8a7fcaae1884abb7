"""Memorisation: exposure by definition, gradients by finite differences, search by enumeration."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from pet_lab.federated.model import LocalTraining
from pet_lab.studies import memorisation as study


def settings(**changes):
    values = {"lines": 60, "insertions": [1, 8], "epochs": 2, "epsilon": 8.0, "delta": 1e-4}
    return study.Settings(**values | {"latent": [2], "replicates": 2, "seed": 4} | changes)


@pytest.fixture(scope="module")
def rows():
    return study.simulate(settings())


@pytest.fixture(scope="module")
def flat():
    x, y = study.read(["pin anna 4821"] * 20 + ["pin bela 0370"] * 20)
    how = LocalTraining(epochs=40, learning_rate=0.3, momentum=0.9)
    return list(study.train(x, y, how, np.random.default_rng(1)))[-1][1]


def test_exposure_is_that_of_sorting():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=study.CODES)
    order = np.argsort(-scores)
    for rank in (1, 2, 500, 10_000):
        want = np.log2(10_000) - np.log2(rank)
        assert study.exposure(scores, order[rank - 1]) == pytest.approx(want)
    assert study.exposure(np.zeros(study.CODES), 7) == 0, (
        "a model that knows nothing exposes nothing"
    )


def test_a_code_of_uniform_rank_has_144_bits_on_average():
    scores = np.random.default_rng(5).normal(size=study.CODES)
    ranks = np.log2(10_000) - np.log2(np.arange(1, 10_001))
    mean = np.mean([study.exposure(scores, code) for code in range(0, 10_000, 50)])
    assert ranks.mean() == pytest.approx(1.44, abs=0.005)
    assert abs(mean - ranks.mean()) < 4 * ranks.std() / np.sqrt(200)


def test_all_codes_are_scored_as_one_at_a_time(flat):
    scores = study.code_scores(flat, "anna")
    for code in (0, 4821, 9999, 370):
        x, y = study.read([f"pin anna {code:04}"])
        each = np.take_along_axis(study.log_probabilities(flat, x), y[..., None], -1)[0, :, 0]
        assert scores[code] == pytest.approx(each[9:13].sum(), rel=1e-4)


def test_a_code_in_all_lines_is_memorised_and_found(flat):
    scores = study.code_scores(flat, "anna")
    assert study.exposure(scores, 4821) == pytest.approx(np.log2(10_000))
    assert study.search(flat, "anna") == (4821, 4)


@pytest.mark.parametrize("owner", ["anna", "bela", "zora"])
def test_the_search_finds_what_enumeration_finds(flat, owner):
    rng = np.random.default_rng(2)
    for weights in (flat, study.MODEL.initial(rng)):
        scores, (code, looked) = study.code_scores(weights, owner), study.search(weights, owner)
        assert scores[code] == pytest.approx(scores.max(), abs=1e-5)
        assert 4 <= looked <= 1111


def test_the_gradient_is_that_of_finite_differences():
    x, y = study.read(["pin anna 4821", "lena saw red cat"])
    rng = np.random.default_rng(6)
    at, way = study.MODEL.initial(rng), rng.normal(size=study.MODEL.parameters)

    def total(step):
        return 2 * study.loss(at + step[0] * way, x, y) * np.log(2)

    slope = study.gradient(at, x, y, clip=None) @ way
    assert slope == pytest.approx(optimize.approx_fprime([0.0], total, 1e-6)[0], rel=1e-3)


def test_each_line_is_clipped_as_a_whole():
    x, y = study.read(["pin anna 4821", "lena saw red cat", "otto met old lamp"])
    at = study.MODEL.initial(np.random.default_rng(7))
    single = [study.gradient(at, x[[i]], y[[i]], clip=None) for i in range(3)]
    clip = sorted(np.linalg.norm(g) for g in single)[1]
    want = sum(g / max(np.linalg.norm(g) / clip, 1) for g in single)
    assert study.gradient(at, x, y, clip=clip) == pytest.approx(want, abs=1e-5)
    assert not study.gradient(at, x[:0], y[:0], clip=clip).any(), "a Poisson batch may be empty"


def test_training_that_diverges_is_said():
    x, y = study.read(["pin anna 4821", "lena saw red cat"])
    how = LocalTraining(epochs=9, learning_rate=1e38)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="diverged in epoch"):
        list(study.train(x, y, how, np.random.default_rng(0)))


def test_the_bound_of_extraction_is_the_definition_of_dp():
    assert study.extraction_bound(1.0, 1e-5) == pytest.approx(np.e / 10_000 + 1e-5)
    twice = np.e * (np.e / 10_000 + 1e-5) + 1e-5
    assert study.extraction_bound(1.0, 1e-5, 2) == pytest.approx(twice)
    assert study.extraction_bound(100.0, 1e-5, 20) == 1


def test_rows_and_claims_turn(rows):
    assert set(study.final_table(rows)["training"]) == {study.PLAIN, study.PRIVATE}
    same = rows.assign(value=rows["value"].mask(rows["metric"] == "exposure", 1.0))
    texts = [c.text for c in study.takeaways(same, settings())]
    assert texts[0].startswith("Not here")
    assert any(t == "Even a code in 8 lines has only 1.0 bits under DP." for t in texts)
    assert "epsilon = 8 at delta = 0.0001" in study.assumptions(settings())


def test_the_epochs_of_peaks_are_those_of_the_rows():
    records = []
    for replicate, low in enumerate([1, 2]):
        at = {"training": study.PLAIN, "replicate": replicate}
        for epoch in range(4):
            metrics = {"validation_loss": abs(epoch - low)}
            records += [{**at, "epoch": epoch, "metric": k, "value": v} for k, v in metrics.items()]
            for times, value in ((1, epoch), (8, -epoch)):
                bits = {"insertions": times, "metric": "exposure", "value": value}
                records.append({**at, "epoch": epoch, **bits})
    got = study.peaks(pd.DataFrame(records))
    assert got == pytest.approx({"after": 1.5, "after_se": 0.5, "rise": 1.5})


@pytest.mark.parametrize(("late", "start"), [(0.0, "On average the peaks"), (9.0, "The source's")])
def test_the_claim_on_peaks_follows_their_standard_error(rows, monkeypatch, late, start):
    seen = study.peaks(rows)
    monkeypatch.setattr(study, "peaks", lambda rows: seen | {"after": late, "after_se": 2.0})
    assert study.takeaways(rows, settings())[1].text.startswith(start)


def test_one_seed_one_result(rows):
    again = study.simulate(settings(replicates=1))
    before = rows[rows["replicate"] == 0]
    assert again["value"].tolist() == pytest.approx(before["value"].tolist(), nan_ok=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"insertions": [61]},
        {"insertions": list(range(1, 10))},
        {"insertions": []},
        {"insertions": [0]},
        {"latent": [65]},
        {"epsilon": 0},
        {"delta": 0},
        {"epochs": 0},
        {"lines": 3},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_no_room_for_canaries_is_said():
    with pytest.raises(ValueError, match="Room for 8 canaries in 60 lines"):
        settings(insertions=[40, 30])

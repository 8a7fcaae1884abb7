"""Windows, features and the division among offices."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from pet_lab import data as datasets
from pet_lab import federated as fl


def recording(seconds=6.0, activity=1, hz=2.0, user=3):
    t = np.arange(int(seconds * 50)) / 50
    frame = pd.DataFrame({c: np.zeros(t.size) for c in ("gyro_x", "gyro_y", "gyro_z")})
    return frame.assign(
        acc_x=1 + 0.3 * np.sin(2 * np.pi * hz * t),
        acc_y=0.0,
        acc_z=0.1 * np.sin(2 * np.pi * hz * t),
        experiment=1,
        user=user,
        activity=activity,
    )


def test_windows_are_cut_within_one_activity_with_half_overlap():
    frame = pd.concat([recording(6), recording(5.12, activity=7), recording(2.56, activity=4)])
    got = fl.windows(frame)
    assert got.size == (300 - 128) // 64 + 1 + 1  # the transition (7) is left out
    assert got.y.tolist() == [0] * 3 + [3]
    assert got.X.shape == (4, len(fl.FEATURES)) == (4, 147)
    assert set(got.users) == {3}


def test_features_of_a_pure_tone_are_what_they_say():
    got = fl.windows(recording(20, hz=2.0))
    value = dict(zip(fl.FEATURES, got.X[4], strict=True))  # away from the filters' ends
    bin_hz = 50 / 128
    assert abs(value["body_x_peak_hz"] - 2.0) <= bin_hz
    assert value["body_x_sd"] == pytest.approx(0.3 / np.sqrt(2), rel=0.06)
    assert value["gravity_x_mean"] == pytest.approx(1.0, abs=0.02)
    assert value["body_x_body_z_correlation"] == pytest.approx(1.0, abs=0.01)
    assert value["gyro_x_log_power"] < -20  # silence stays finite
    assert np.isfinite(got.X).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="gyro_y"), "gyro_y"),
        (lambda f: f.assign(acc_x=np.nan), "finite"),
        (lambda f: f.head(100), "2.56 s"),
        (lambda f: f.assign(activity=0), "2.56 s"),
    ],
)
def test_unusable_recordings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        fl.windows(change(recording()))


def test_only_windows_of_one_stretch_share_samples():
    """Two stretches of one activity with another between: numbers by stretch, also by recording."""
    frame = pd.concat([recording(6), recording(3, activity=4), recording(6), recording(6, user=4)])
    frame["experiment"] = np.repeat([1, 2], [750, 300])
    got = fl.windows(frame)
    assert len(np.unique(got.stretches)) == 4
    assert got.y.tolist() == [0] * 3 + [3] + [0] * 6
    assert np.flatnonzero(np.diff(got.stretches)).tolist() == [2, 3, 6]


def test_halves_share_no_stretch_and_lose_no_window(offices):
    for office in offices:
        a, b = office.halves(np.random.default_rng(1))
        assert not set(a.stretches) & set(b.stretches)
        assert a.n + b.n == office.n
        assert min(a.n, b.n) > 0.3 * office.n
        assert sorted(map(tuple, [*a.X, *b.X])) == sorted(map(tuple, office.X))


def test_the_generated_stand_in_is_learnable_but_says_what_it_is(data):
    frame, provenance = fl.stand_in(np.random.default_rng(0), people=2, seconds=4)
    again, same = fl.stand_in(np.random.default_rng(0), people=2, seconds=4)
    assert provenance["kind"] == "generated"
    assert provenance["sha256"] == same["sha256"]
    assert frame.equals(again)
    with pytest.raises(ValueError, match="people"):
        fl.stand_in(np.random.default_rng(0), people=0)
    everyone = fl.pooled(fl.divide(data, rng=np.random.default_rng(0)))
    model = LogisticRegression(max_iter=200).fit(everyone.X, everyone.y)
    assert 0.5 < model.score(everyone.X_test, everyone.y_test) < 1


def test_people_are_in_one_office_and_either_train_or_test(data, offices):
    users = [set(o.users) for o in offices]
    assert not set.intersection(*users)
    assert set.union(*users) == set(data.users) - set(fl.TEST_USERS)
    assert sum(o.n for o in offices) + sum(len(o.y_test) for o in offices) == data.size
    assert max(map(len, users)) - min(map(len, users)) <= 1
    everyone = fl.pooled(offices)
    np.testing.assert_allclose(everyone.X.mean(axis=0), 0, atol=0.1)  # but for the clip at 8 sd


def test_skew_makes_labels_uneven_and_loses_nothing(data, offices):
    def unevenness(parts):
        counts = np.array([np.bincount(o.y, minlength=6) / o.n for o in parts])
        return counts.std(axis=0).mean()

    skewed = fl.divide(data, rng=np.random.default_rng(2), skew=3.0)
    assert sum(o.n for o in skewed) == sum(o.n for o in offices)
    assert unevenness(skewed) > 3 * unevenness(offices)
    assert all(o.n for o in skewed)


def test_many_offices_and_the_same_data_for_all(data):
    two = fl.divide(data, offices=2, rng=np.random.default_rng(0), same_data=True)
    assert two[0].n == two[1].n == (~np.isin(data.users, fl.TEST_USERS)).sum()
    eight = fl.divide(data, offices=7, rng=np.random.default_rng(0))
    assert eight[6].name == "office-7"
    for bad in ({"offices": 40}, {"offices": 0}, {"skew": -1.0}):
        with pytest.raises(ValueError, match=r"office|skew"):
            fl.divide(data, rng=np.random.default_rng(0), **bad)


def test_real_recordings_give_the_windows_and_the_accuracy_of_the_literature(
    real_data, monkeypatch
):
    if not (real_data / "hapt_raw.zip").is_file():
        pytest.skip("no real data: set PET_LAB_DATA to a folder that holds hapt_raw.zip")
    monkeypatch.setenv("PET_LAB_DATA", str(real_data))
    got = fl.windows(datasets.load("hapt").frame)
    assert got.X.shape == (10_411, 147)
    everyone = fl.pooled(fl.divide(got, rng=np.random.default_rng(0)))
    model = LogisticRegression(max_iter=300).fit(everyone.X, everyone.y)
    assert model.score(everyone.X_test, everyone.y_test) > 0.95

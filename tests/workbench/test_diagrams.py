"""Pictures of parties draw what the frames say."""

import warnings

import pandas as pd

from pet_lab.workbench import diagrams, plots

MESSAGES = pd.DataFrame(
    [
        ("anne", "bert", "hello", 100),
        ("bert", "anne", "hello", 120),
        ("anne", "bert", "points", 4096),
        ("anne", "bert", "points", 4096),
        ("bert", "carol", "points", 10),
    ],
    columns=["sender", "receiver", "kind", "bytes"],
)


def test_a_sequence_joins_runs_of_one_kind_and_keeps_the_order(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "show", lambda fig, **words: shown.append(fig))
    words = {"caption": "Who sends what.", "alt": "Arrows between three life lines."}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        diagrams.sequence(MESSAGES, parties=["anne", "bert", "carol"], **words)
    ax = shown[0].axes[0]
    texts = [t.get_text() for t in ax.texts if t.get_text()]
    assert texts[:3] == ["anne", "bert", "carol"]
    assert texts[3:] == ["hello, 100 B", "hello, 120 B", "points, 8 KiB", "points, 10 B"]


def test_a_flow_draws_one_arrow_a_pair_and_one_colour_a_role():
    roles = {"anne": "user", "bert": "processor", "carol": "processor"}
    for columns in ([["anne"], ["bert", "carol"]], [["anne", "bert", "carol"]]):
        _, ax = plots.figure()
        diagrams.flow(MESSAGES, columns=columns, roles=roles, ax=ax)
        arrows = [t for t in ax.texts if getattr(t, "arrow_patch", None) is not None]
        assert len(arrows) == 3
        assert [t.get_text() for t in ax.get_legend().get_texts()] == ["user", "processor"]


def test_key_holders_are_shown_with_their_words(capsys):
    diagrams.key_holders(
        {"alone": ["TTP"], "together": ["anne", "bert"]},
        caption="Who holds keys.",
        alt="Two safes, with one and two holders.",
    )
    assert "Two safes" in capsys.readouterr().out

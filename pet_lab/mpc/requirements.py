"""The respondents' requirements (paragraphs 127-131), held against this service, honestly.

"met" names a test that would fail without it; "partly" says what is missing; "organisational" is
for people and contracts; "not met" is not met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MET, PARTLY, PEOPLE, NOT = "met", "partly", "organisational", "not met"

REQUIREMENTS = (
    # paragraph, requirement, status, test (or ""), why
    (
        120,
        "No computation without the approval of all K processing parties",
        MET,
        "test_two_of_three_approvals_compute_nothing",
        "Signed approvals, checked by every party; K - 1 shares of an input are uniform.",
    ),
    (
        121,
        "A safe that needs all K keys",
        MET,
        "test_one_key_short_leaves_every_value_possible",
        "Inputs wait as additive shares. Under way, levels majority and checked rest on "
        "Shamir's threshold: a majority of parties that leaves the protocol could open them.",
    ),
    (
        127,
        "Several technologies combined, hardware among them",
        PARTLY,
        "test_pooled_statistics_and_aligned_files_among_three",
        "Secret sharing, set intersection and noise; no trusted hardware.",
    ),
    (127, "Containers and orchestration", NOT, "", "Processes on one machine."),
    (128, "Roles and governance, mapped to controller and processor", PEOPLE, "", "Law."),
    (
        128,
        "Verification and auditing powers",
        PARTLY,
        "test_a_cut_end_shows_only_against_a_witness",
        "Every party keeps a signed log that anyone can verify; who audits is a decision.",
    ),
    (128, "Liabilities", PEOPLE, "", "Contracts; the signed logs are evidence for them."),
    (128, "Who builds, operates and pays", PEOPLE, "", "Costs a task are measured here."),
    (
        129,
        "No lock-in by a vendor",
        PARTLY,
        "",
        "Open source on mpyc, TLS and Ed25519; one implementation, no second one to change to.",
    ),
    (129, "Software that does not go stale", PEOPLE, "", "Pinned versions; nobody maintains it."),
    (
        129,
        "Scale",
        PARTLY,
        "test_sizes_that_would_take_hours_are_refused_with_the_estimate_and_a_way_out",
        "Joins inside the computation grow with the product of the sizes: thousands of records. "
        "Beyond that set intersection first, which tells both owners who is in both files.",
    ),
    (129, "Fit with the law", PEOPLE, "", "Technology does not replace a legal basis (133)."),
    (129, "Educating adopters", PARTLY, "", "This page; no training material."),
    (129, "Where nodes may stand", PEOPLE, "", "Any address works; the choice is legal."),
    (
        129,
        "Use without expert knowledge",
        PARTLY,
        "test_what_the_catalogue_refuses",
        "A catalogue, clear refusals, warnings; parameters still need understanding.",
    ),
    (130, "Transparency, open source", MET, "", "All of it is here to read; no test can show it."),
    (
        130,
        "Scaling up on demand",
        NOT,
        "",
        "One task at a time in a party; no sharing of work among machines.",
    ),
    (130, "Independent audits, reviews, bounties", NOT, "", "Nobody outside has reviewed it."),
    (
        130,
        "Ultra-high security",
        NOT,
        "test_no_secret_is_on_a_command_line_or_in_a_log",
        "A research prototype: keys lie in files, not in hardware; not hardened or reviewed.",
    ),
    (
        130,
        "Identity and access management",
        MET,
        "test_an_unknown_certificate",
        "Mutual TLS; unknown, expired, revoked and foreign certificates are turned away; every "
        "step is tied to a role. Issuing certificates and membership stay with people.",
    ),
    (
        130,
        "Misbehaving parties are identified and excluded",
        PARTLY,
        "test_a_wrong_input_share_names_and_excludes_and_a_lost_party_is_named",
        "Named: wrong input shares, lost parties, wrong sums, a wrong answer of one in five. Found "
        "but not named: wrong products, and a wrong answer of one in three.",
    ),
    (
        130,
        "Some protection against active attacks",
        MET,
        "test_a_wrong_product_stops_a_checked_task",
        "Level checked. Not for hidden joins and logistic regression, nor at the other levels.",
    ),
    (
        130,
        "Input parties can be processors",
        MET,
        "test_users_process_themselves_in_the_mixed_model",
        "One honest processor suffices for what waits in the safe, and for sums to the end.",
    ),
    (130, "Capability to evolve", PEOPLE, "", "Replaceable parts; evolution needs an owner."),
    (
        131,
        "Open-source parts and standard interfaces",
        PARTLY,
        "",
        "Open parts; messages are ours.",
    ),
    (131, "Interoperability with other systems", NOT, "", "No common standard is implemented."),
    (
        131,
        "Levels of security to choose from",
        MET,
        "test_three_parties_get_what_the_clear_data_give",
        "Three levels and three joins, each with its price and with what it reveals.",
    ),
    (131, "Competition among processors", PEOPLE, "", "Any member can take a seat at a task."),
    (
        131,
        "Output checking",
        MET,
        "test_small_groups_and_dominated_totals_do_not_leave",
        "Smallest group, dominance and noise, before the answer leaves. Not over several queries: "
        "differences of answers are limited by the number of queries only.",
    ),
    (
        132,
        "Deterministic linkage with counts, means, variances; regressions",
        MET,
        "test_three_parties_get_what_the_clear_data_give",
        "Equal to the clear answers.",
    ),
    (132, "Probabilistic linkage", NOT, "", "Exact keys only inside the computation."),
)


def table() -> pd.DataFrame:
    """Columns: paragraph, requirement, status, test, why."""
    import pandas as pd

    names = ["paragraph", "requirement", "status", "test", "why"]
    return pd.DataFrame(list(REQUIREMENTS), columns=names)

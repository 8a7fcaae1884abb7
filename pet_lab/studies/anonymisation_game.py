"""The anonymisation game: deleting, grouping and averaging, and what each still gives away.

Definitions: k-anonymity (Samarati and Sweeney 1998), l-diversity (Machanavajjhala et al. 2007),
t-closeness (Li et al. 2007), measured by pycanon; differential privacy by the Laplace mechanism.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator

from pet_lab.checks import distinct, positive, require, whole
from pet_lab.rows import Claim, Rows, claims, concat, means, only, tidy, wide

LABELS = {
    "fields": "fields known of a person",
    "unique": "people who are alone with their fields",
    "epsilon": "epsilon of each average",
    "within": "chance that the guessed wage is within 10 %",
    "sites": "sites that publish a table each",
    "disclosed": "people whose outcome a table gives away",
    "caught": "identifiers removed",
}
# The slides' example: one row per person.
WAGES = pd.DataFrame(
    [
        ("Mark Zuck", "CEO", "M", 22_554_543),
        ("Mike Schroepfer", "CTO", "M", 19_757_363),
        ("Alissa Wang", "SW Eng", "F", 190_000),
        ("Vincent Peters", "SW Eng", "M", 140_000),
        ("Klay Donald", "SW Eng", "M", 150_000),
        ("Ella Robson", "SW Eng", "F", 210_000),
    ],
    columns=["name", "job", "sex", "wage"],
)
GROUPED = "job grouped"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    known: Sequence[str]
    sensitive: str
    group: str
    sites: Sequence[int]
    epsilons: Sequence[float]
    largest_wage: float
    notes: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(known=self.known, sites=self.sites, epsilons=self.epsilons)
        whole(1, notes=self.notes, replicates=self.replicates)
        whole(1, smallest_number_of_sites=min(self.sites))
        whole(0, seed=self.seed)
        for epsilon in self.epsilons:
            positive(epsilon=epsilon)
        positive(largest_wage=self.largest_wage)


def _in_table(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column[:40] for column in columns if column not in frame]
    known = ", ".join(map(str, frame.columns[:12])) + (", ..." if frame.shape[1] > 12 else "")
    require(
        not missing,
        f"Expected columns of the table, it has no {missing}; name some of {known}.",
    )


def anonymity(frame: pd.DataFrame, fields: Sequence[str], sensitive: str) -> dict[str, float]:
    """k, l and t of a table by pycanon, and the share of people alone with their fields.

    Raises
    ------
    ValueError
        If a field is no column, or there are no fields.
    """
    _in_table(frame, (*fields, sensitive))
    require(fields, "Expected at least one column that the attacker knows, got none; name one.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pycanon import anonymity as peer

        names = list(fields)
        measures = {
            "k": peer.k_anonymity(frame, names),
            "l": peer.l_diversity(frame, names, [sensitive]),
            "t": peer.t_closeness(frame, names, [sensitive]),
        }
    size = frame.groupby(names)[names[0]].transform("size")
    return {**measures, "unique": float((size == 1).mean())}


def deletion() -> pd.DataFrame:
    """Rows (step): k and unique people of the slides' table, as fields go and jobs are grouped."""
    grouped = WAGES.assign(job=WAGES["job"].where(WAGES["job"] == "SW Eng", "C-level"))
    steps = {
        "as it is": (WAGES, ["name", "job", "sex"]),
        "name deleted": (WAGES, ["job", "sex"]),
        GROUPED: (grouped, ["job", "sex"]),
        "job grouped, sex deleted": (grouped, ["job"]),
        "everything but the wage deleted": (grouped.assign(any="all"), ["any"]),
    }
    rows = Rows(part="deletion")
    for step, (table, fields) in steps.items():
        rows.add(step=step, metrics=anonymity(table, fields, "wage"))
    return rows.frame()


def joiner(
    *, before: tuple[int, float], after: tuple[int, float], rounded_to: float
) -> pd.DataFrame:
    """Rows: `joiner_wage` from two averages (people, average), and `half_width`, what rounding hides.

    n' a' - n a is the newcomer's wage, exact if the averages are; averages rounded to a multiple of
    `rounded_to` leave half of it times (n + n').
    """
    (n, old), (m, new) = before, after
    require(m == n + 1, f"One person joins {n} people: expected {n + 1} afterwards, got {m}.")
    rows = Rows(part="joiner", people=n)
    rows.add(metrics={"joiner_wage": m * new - n * old, "half_width": rounded_to / 2 * (n + m)})
    return rows.frame()


def protected_averages(
    settings: Settings, *, people: int, average: float, wage: float
) -> pd.DataFrame:
    """Rows (epsilon): `within`, the chance that the difference of two private averages tells the
    newcomer's wage to 10 %, simulated, and in closed form.

    Wages are clipped to `largest_wage` B, numbers of people are public, and each average has
    Laplace noise B / (epsilon n) (adding or removing one person; both averages cost 2 epsilon). The
    guess errs by the sum of two Laplace variables of scale B / epsilon.
    """
    rng, rows = np.random.default_rng(settings.seed), Rows(part="protected")
    for epsilon in settings.epsilons:
        b, draws = settings.largest_wage / epsilon, settings.replicates * 1000
        old = people * average + rng.laplace(0, b, draws)
        new = people * average + wage + rng.laplace(0, b, draws)
        hit = np.abs(new - old - wage) <= 0.1 * wage
        metrics = {"within": hit.mean(), "within_theory": chance_within(0.1 * wage / b)}
        rows.add(epsilon=epsilon, metrics=metrics, se={"within": hit.std() / np.sqrt(draws)})
    return rows.frame()


def chance_within(t: float) -> float:
    """P(|error| <= t) of the sum of two Laplace variables of scale 1."""
    return 1 - math.exp(-t) * (1 + t / 2)


def uniqueness(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Rows (fields): k, l, t and unique people as more and more fields are known of a person, and
    `linked`: people whose sensitive value someone with those fields reads off without doubt."""
    rows, known = Rows(part="uniqueness"), list(settings.known)
    for fields in range(1, len(known) + 1):
        here = known[:fields]
        metrics = anonymity(frame, here, settings.sensitive)
        values = frame.groupby(here)[settings.sensitive].transform("nunique")
        rows.add(fields=fields, added=here[-1], metrics=metrics | {"linked": (values == 1).mean()})
    return rows.frame()


def site_tables(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Rows (sites, replicate): people whose outcome is given away by tables of group by outcome.

    People are dealt to sites at random. A table gives an outcome away where all members of a group
    at a site share it: who knows group and site knows it.
    """
    rows = Rows(part="sites")
    for replicate in range(settings.replicates):
        rng = np.random.default_rng([settings.seed, replicate])
        for sites in settings.sites:
            keys = [rng.integers(0, sites, len(frame)), frame[settings.group]]
            alone = frame.groupby(keys)[settings.sensitive].transform("nunique") == 1
            rows.add(sites=sites, replicate=replicate, metrics={"disclosed": alone.mean()})
    return rows.frame()


# --- free text ------------------------------------------------------------------------------------

NAMES = ("Anna", "Bela", "Carlo", "Dora", "Emil", "Franka", "Goran", "Hedda")
RULES = (r"\b\d{2}\.\d{2}\.\d{4}\b", r"\b\d{3}-\d{4}\b", r"\b[\w.]+@[\w.]+\b")
PLACES = ("Ulm", "Graz", "Bern", "Lyon")


NOTE = (
    "{name} was seen on {date} in {place} and can be reached at {number} or {address} ; "
    "{misspelt name} is {role} and has asthma."
)


def identifiers(rng: Generator) -> dict[str, str]:
    """What one made-up note says of a person, by kind."""
    name = str(rng.choice(NAMES))
    return {
        "name": name,
        "date": f"{rng.integers(1, 28):02}.{rng.integers(1, 13):02}.{rng.integers(1950, 2020)}",
        "place": str(rng.choice(PLACES)),
        "number": f"{rng.integers(100, 999)}-{rng.integers(1000, 9999)}",
        "address": f"{name.lower()}@post.example",
        "misspelt name": name[:2] + name[1:],
        "role": str(rng.choice(["the mayor", "our only dentist", "the goalkeeper"])),
    }


def redact(text: str) -> str:
    """The text without what rules (dates, numbers, addresses) and a dictionary find."""
    words = "|".join((*NAMES, *PLACES))
    for rule in (*RULES, rf"\b(?:{words})\b"):
        text = re.sub(rule, "[...]", text)
    return text


def free_text(settings: Settings) -> pd.DataFrame:
    """Rows (kind): share of identifiers of each kind that `redact` removes from made-up notes."""
    rng, caught = np.random.default_rng(settings.seed), []
    for _ in range(settings.notes):
        facts = identifiers(rng)
        after = redact(NOTE.format_map(facts))
        caught.append({kind: text not in after for kind, text in facts.items()})
    return tidy("caught", pd.DataFrame(caught).mean().to_dict(), by="kind", part="text")


# --- the whole study ------------------------------------------------------------------------------


def simulate(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """All rows; `part` names the experiment: deletion, joiner, protected, uniqueness, sites, text.

    Raises
    ------
    ValueError
        If a column is not in the table, or a person would be alone in it.
    """
    _in_table(frame, (*settings.known, settings.sensitive, settings.group))
    require(len(frame) > 1, f"Expected two people or more, the table has {len(frame)}; add some.")
    printed = joiner(before=(120, 180_000), after=(121, 181_000), rounded_to=1000)
    wage = float(printed["value"].iloc[0])
    return concat(
        deletion(),
        printed,
        protected_averages(settings, people=120, average=180_000, wage=wage),
        uniqueness(frame, settings),
        site_tables(frame, settings),
        free_text(settings),
    )


def steps_table(rows: pd.DataFrame) -> pd.DataFrame:
    """k, l, t and unique people of the slides' table, by step."""
    here = only(rows, part="deletion")
    return wide(here, index="step").set_index("step").loc[here["step"].unique()].reset_index()


def fields_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The same of the data set, as fields become known."""
    return wide(only(rows, part="uniqueness"), index=["fields", "added"])


def assumptions(settings: Settings) -> str:
    """The privacy statement of the two averages."""
    shown = ", ".join(f"{2 * e:g}" for e in settings.epsilons)
    return (
        f"Two averages of wages together at epsilon {shown} (Laplace, add or remove one person, numbers "
        f"of people public, wages clipped to {settings.largest_wage:g}, a limit not read off the data); "
        "everything else in this notebook is not private."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    wage, known = means(rows, "metric", part="joiner"), fields_table(rows).iloc[-1]
    within = means(rows, "epsilon", metric="within")
    safe, exposed = within[within <= 0.1], within.index.max()
    sites, text = means(rows, "sites", part="sites"), means(rows, "kind", part="text")
    few, many = sites.index.min(), sites.index.max()
    k = steps_table(rows).set_index("step")["k"][GROUPED]
    sentences = [
        ("{known[fields]:.0f} harmless fields single out {known[unique]:.0%} of the people, and "
         "{known[linked]:.0%} have their {sensitive} read off without doubt.", known["unique"] > 0.5),
        ("Two exact averages give the newcomer's wage, ${wage[joiner_wage]:,.0f}, away; rounded as "
         "printed, they leave ${wage[half_width]:,.0f} to either side.", wage["joiner_wage"] > 0),
        ("At epsilon {safe:g} an average the guess is within 10 % with a chance of at most one in "
         "ten; at {exposed:g} the chance is {chance:.0%}.", len(safe) > 0,
         "At none of these epsilons is the guess within 10 % with a chance of at most one in ten; at "
         "{exposed:g} the chance is {chance:.0%}."),
        ("Grouping jobs makes the slides' table {k:.0f}-anonymous.", k > 1),
        ("Tables of {many:.0f} sites give {split:.0%} of outcomes away, tables of {few:.0f} only "
         "{pooled:.0%}.", sites[many] > sites[few]),
        ("Rules and a dictionary remove {text[name]:.0%} of names, {text[misspelt name]:.0%} of misspelt "
         "ones and {text[role]:.0%} of telling roles.", text["role"] < text["name"]),
    ]  # fmt: skip
    return claims(
        sentences, known=known, sensitive=settings.sensitive, wage=wage, k=k, text=text, few=few, many=many,
        safe=safe.index.max(), exposed=exposed, chance=within[exposed], split=sites[many], pooled=sites[few],
    )  # fmt: skip


def explore(people: int, wage: int, largest_wage: int, epsilon: float) -> pd.DataFrame:
    """Chance that two averages tell a newcomer's wage to 10 %, with and without protection."""
    chance = chance_within(0.1 * min(wage, largest_wage) * epsilon / largest_wage)
    noise = np.sqrt(2) * largest_wage / epsilon / people
    names = ["averages", "chance of a good guess", "noise in an average ($)"]
    return pd.DataFrame([("exact", 1.0, 0.0), ("private", chance, noise)], columns=names)

"""Who deviated, by what was signed: an owner's check values, and what an accused party opens.

A processing party whose share does not fit the check value of its owner is heard: it says, signed,
that the value fits its share, or opens the share against the commitment in the task. An honest
party can always show which it is, and a signed opening is no one else's word.
"""

from collections.abc import Mapping, Sequence

from pet_lab import shares
from pet_lab.parties.log import verify_signature

from . import catalogue
from . import messages as m
from .tasks import Task


def opened_value(task: Task, case: m.Justify, opening: m.Opening) -> str | None:
    """The check value of an opened share; None if it is not the share in the commitment."""
    i, p = task.party_index(opening.party), catalogue.modulus(task)
    if opening.fits:
        return case.check_values[i]
    if shares.commit(opening.share, opening.salt) != task.input(case.owner).commitments[i]:
        return None
    try:
        row = shares.unpack(opening.share, p)
    except shares.ShareError:
        return None
    return f"{shares.check_value(row, int(case.points[i], 16), p):x}"


def signed_opening(
    task: Task, case: m.Justify, opening: m.Opening, publics: Mapping[str, str]
) -> bool:
    """Whether the accused itself says this, about this case."""
    about = (opening.task, opening.owner) == (task.sha256, case.owner)
    public = publics.get(opening.party, "")
    return about and verify_signature(public, opening.signed, opening.signature)


def guilty(
    task: Task,
    case: m.Justify,
    opening: m.Opening,
    measured: Sequence[str],
    publics: Mapping[str, str],
) -> dict[str, str]:
    """Who deviated, and how, where the check values measured are not those signed; else nobody."""
    owner, party, i = case.owner, opening.party, task.party_index(opening.party)
    if len(measured) != task.k or measured[i] == case.check_values[i]:
        return {}
    if not signed_opening(task, case, opening, publics):
        return {}
    value, deviants = opened_value(task, case, opening), {}
    if value is not None and value != case.check_values[i]:
        deviants[owner] = f"signed a check value that its share for {party} does not have"
    if value != measured[i]:
        deviants[party] = f"used a share other than the one {owner} gave it"
    return deviants

"""What can go wrong, as the party that notices it says it."""

from __future__ import annotations


class MpcError(ValueError):
    """Base of all: the sentence says what was expected, what came and what to do."""


class TaskError(MpcError):
    """A task that is not well formed: nobody could compute it."""


class Refused(MpcError):
    """A party declines by its policy, or because an approval or a deposit is not valid."""


class PartyLost(MpcError):
    """A party did not answer, or went away in the middle; `party` names it."""

    def __init__(self, party: str, sentence: str) -> None:
        super().__init__(sentence)
        self.party = party


class Cheating(MpcError):
    """Somebody deviated. `suspects` names the party where that can be told, else it is empty."""

    def __init__(self, sentence: str, suspects: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.suspects = suspects

"""What else can go wrong in the service; see `parties.errors` for the rest."""

from pet_lab.checks import require
from pet_lab.parties.errors import PartyError, Refused


class TaskError(PartyError):
    """A task that is not well formed: nobody could compute it."""


class Cheating(PartyError):
    """Somebody deviated; `suspects` names the party where that can be told, else it is empty."""

    @property
    def suspects(self) -> tuple[str, ...]:
        """Parties that deviated."""
        return self.parties


def well_formed(holds: object, sentence: str) -> None:
    """TaskError with the sentence unless this holds."""
    require(holds, sentence, TaskError)


def agreed(holds: object, sentence: str) -> None:
    """Refused with the sentence unless this holds."""
    require(holds, sentence, Refused)

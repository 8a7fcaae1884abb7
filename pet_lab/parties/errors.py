"""What can go wrong between parties; every error is one sentence that a user may read."""

from __future__ import annotations

from typing import ClassVar


class PartyError(Exception):
    """Base of all errors between parties; `parties`, whom it is about, cross the wire with it."""

    by_name: ClassVar[dict[str, type[PartyError]]] = {}

    def __init__(self, sentence: str, parties: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.parties = tuple(parties)

    def __init_subclass__(cls) -> None:
        PartyError.by_name.setdefault(cls.__name__, cls)

    @classmethod
    def received(cls, sentence: str, parties: tuple[str, ...]) -> PartyError:
        """This error, as another party reported it."""
        return cls(sentence, parties)


class Refused(PartyError):
    """A party declines: a certificate, a message or a request is not what it accepts."""


class PeerLost(PartyError):
    """A party did not answer in time, or went away; `party` names it."""

    def __init__(self, party: str, sentence: str) -> None:
        super().__init__(sentence, (party,))
        self.party = party

    @classmethod
    def received(cls, sentence: str, parties: tuple[str, ...]) -> PartyError:
        """This error, as another party reported it; it names at most one party."""
        return cls(parties[0] if parties else "", sentence)

"""OpenMined's PSI library as a peer engine: ECDH on P-256, one side learns.

Its client (our initiator) learns the result; its server (our responder) learns the size only.
The initiator then tells the responder nothing, so `symmetric` is False, and the responder's outcome
is "not known". Nothing proves to the initiator that the responder answered for its own set.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pet_lab.parties import apart

from .protocol import MessageError, PsiError, Variant
from .session import PsiSession

_FALSE_POSITIVES = 1e-9  # unused by the raw structure, but the call wants it


class OpenMinedEngine:
    """The library's raw structure, so no false positives; its messages travel as opaque blobs.

    strangers   the peer is not of this process: the library, which is native code, gets a process
                of its own for each session, and a message that ends it ends only that
    """

    name = "openmined"
    symmetric = False
    variants: tuple[Variant, ...] = ("psi", "cardinality")

    def __init__(self, *, strangers: bool = False) -> None:
        try:
            import private_set_intersection.python as library
        except ImportError:
            raise PsiError(
                "openmined-psi is not installed; it has builds for Linux x86-64 and macOS only. "
                "Use the engine ecdh."
            ) from None
        self._version, self._strangers = str(library.__version__), strangers

    def __repr__(self) -> str:
        return "openmined"

    def parameters(self) -> dict[str, str | int]:
        """See `PsiEngine`."""
        return {"structure": "raw", "version": self._version}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int | None:
        """See `PsiEngine`; None for the responder."""
        n, m = len(talk.elements), talk.peer_size
        items = [(talk.session + e).hex().encode() for e in talk.elements]
        how = [talk.role.encode(), talk.variant.encode()]
        call = self._library(how, 60 + (n + m) / 100)

        def work(stage: str, elements: int, method: str, *given: Sequence[bytes]) -> list[bytes]:
            with talk.stage(stage, elements) as cpu:
                before = apart.spent()
                results = call(method, *given)
                cpu.append(apart.spent() - before)
            return results

        if talk.role == "responder":
            (setup,) = work("hash and blind", n, "setup", items, [str(m).encode()])
            request = _receive(talk)
            for message in (setup, *work("blind again", m, "respond", [request])):
                _send(talk, message)
            return None
        _send(talk, *work("hash and blind", n, "request", items))
        both = [_receive(talk), _receive(talk)]
        (raw,) = work("blind again and compare", n + m, "compare", both)
        common = np.frombuffer(raw, "<i8").astype(np.int64)
        return common if talk.variant == "psi" else int(common[0])

    def _library(self, how: list[bytes], deadline_s: float) -> Callable[..., list[bytes]]:
        if self._strangers:
            place = f"{__name__}:Library"
            return apart.Apart(place, how, refusal=MessageError, deadline_s=deadline_s)
        library = Library(how)
        return lambda method, *given: getattr(library, method)(*given)


class Library:
    """One side of a session in the library: all that reads the peer's bytes."""

    def __init__(self, how: Sequence[bytes]) -> None:
        import private_set_intersection.python as library

        role, variant = how
        self._library, self._reveal = library, variant == b"psi"
        side = library.server if role == b"responder" else library.client
        self._side = side.CreateWithNewKey(self._reveal)

    def _parsed(self, message: Any, raw: bytes) -> Any:
        message.ParseFromString(raw)
        return message

    def setup(self, items: Sequence[bytes], peer_size: Sequence[bytes]) -> list[bytes]:
        """The responder's first message, of its items."""
        own, raw = [i.decode() for i in items], self._library.DataStructure.RAW
        how = _FALSE_POSITIVES, int(peer_size[0]), own, raw
        return [self._side.CreateSetupMessage(*how).SerializeToString()]

    def request(self, items: Sequence[bytes]) -> list[bytes]:
        """The initiator's message, of its items."""
        return [self._side.CreateRequest([i.decode() for i in items]).SerializeToString()]

    def respond(self, message: Sequence[bytes]) -> list[bytes]:
        """The responder's answer to a request."""
        try:
            request = self._parsed(self._library.Request(), message[0])
            return [self._side.ProcessRequest(request).SerializeToString()]
        except Exception:  # it raises errors of many kinds at messages that are none of its own
            raise _none_of_its("request") from None

    def compare(self, both: Sequence[bytes]) -> list[bytes]:
        """What the initiator has in common with the responder: places in its items, or how many."""
        kinds = self._library.ServerSetup, self._library.Response
        try:
            setup, response = (self._parsed(of(), raw) for of, raw in zip(kinds, both, strict=True))
            if self._reveal:
                common = sorted(self._side.GetIntersection(setup, response))
            else:
                common = [self._side.GetIntersectionSize(setup, response)]
        except Exception:
            raise _none_of_its("answer") from None
        return [np.array(common, dtype="<i8").tobytes()]


def _none_of_its(what: str) -> MessageError:
    return MessageError(f"The peer's {what} is not one of the OpenMined library.")


def _send(talk: PsiSession, raw: bytes) -> None:
    talk.send("blob", np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1))


def _receive(talk: PsiSession) -> bytes:
    # A point has 33 bytes, and protobuf adds two or three to each.
    limit = 4096 + 64 * (len(talk.elements) + talk.peer_size)
    return talk.receive("blob", width=1, count=limit, or_fewer=True).tobytes()

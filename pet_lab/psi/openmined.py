"""OpenMined's PSI library as a peer engine: ECDH on P-256, one side learns.

Its client (our initiator) learns the result; its server (our responder) learns the size only.
The initiator then tells the responder nothing, so `symmetric` is False, and the responder's outcome
is "not known". Nothing proves to the initiator that the responder answered for its own set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .protocol import MessageError, PsiError, Variant
from .session import PsiSession

_FALSE_POSITIVES = 1e-9  # unused by the raw structure, but the call wants it


class OpenMinedEngine:
    """The library's raw structure, so no false positives; its messages travel as opaque blobs."""

    name = "openmined"
    private = True
    symmetric = False
    variants: tuple[Variant, ...] = ("psi", "cardinality")

    def __init__(self) -> None:
        try:
            import private_set_intersection.python as library
        except ImportError:
            raise PsiError(
                "openmined-psi is not installed; it has builds for Linux x86-64 and macOS only. "
                "Use the engine ecdh."
            ) from None
        self._library = library

    def __repr__(self) -> str:
        return "openmined"

    def parameters(self) -> dict[str, str | int]:
        """What both sides must agree on, beyond the name; see `PsiEngine`."""
        return {"structure": "raw", "version": str(self._library.__version__)}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int | None:
        """Own positions of the common elements, or their number; None for the responder."""
        reveal = talk.variant == "psi"
        items = [(talk.session + e).hex() for e in talk.elements]
        if talk.role == "responder":
            self._serve(talk, items, reveal)
            return None
        library = self._library
        with talk.stage("hash and blind", len(items)):
            client = library.client.CreateWithNewKey(reveal)
            request = client.CreateRequest(items)
        _send(talk, request.SerializeToString())
        setup, response = library.ServerSetup(), library.Response()
        setup_raw, response_raw = _receive(talk), _receive(talk)
        with talk.stage("blind again and compare", len(items) + talk.peer_size):
            try:
                setup.ParseFromString(setup_raw)
                response.ParseFromString(response_raw)
                common = (
                    client.GetIntersection(setup, response)
                    if reveal
                    else client.GetIntersectionSize(setup, response)
                )
            except Exception:
                raise MessageError(
                    "The peer's answer is not one of the OpenMined library."
                ) from None
        return np.array(sorted(common), dtype=np.int64) if reveal else int(common)

    def _serve(self, talk: PsiSession, items: list[str], reveal: bool) -> None:
        library = self._library
        with talk.stage("hash and blind", len(items)):
            server = library.server.CreateWithNewKey(reveal)
            setup = server.CreateSetupMessage(
                _FALSE_POSITIVES, talk.peer_size, items, library.DataStructure.RAW
            )
        raw = _receive(talk)
        with talk.stage("blind again", talk.peer_size):
            request = library.Request()
            try:
                request.ParseFromString(raw)
                response = server.ProcessRequest(request)
            except Exception:
                raise MessageError(
                    "The peer's request is not one of the OpenMined library."
                ) from None
        _send(talk, setup.SerializeToString())
        _send(talk, response.SerializeToString())


def _send(talk: PsiSession, raw: bytes) -> None:
    talk.send("blob", np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1))


def _receive(talk: PsiSession) -> bytes:
    # A point has 33 bytes, and protobuf adds two or three to each.
    limit = 4096 + 64 * (len(talk.elements) + talk.peer_size)
    return talk.receive("blob", width=1, count=limit, or_fewer=True).tobytes()

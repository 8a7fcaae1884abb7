"""OpenMined's PSI library as a peer engine: ECDH on P-256, one side learns.

Its client (our initiator) learns the result; its server (our responder) learns the size only.
The initiator then tells the responder nothing, so `symmetric` is False, and the responder's outcome
is "not known". Nothing proves to the initiator that the responder answered for its own set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .protocol import MessageError, PsiError, Variant
from .session import PsiSession

_FALSE_POSITIVES = 1e-9  # unused by the raw structure, but the call wants it


class OpenMinedEngine:
    """The library's raw structure, so no false positives; its messages travel as opaque blobs."""

    name = "openmined"
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
        """See `PsiEngine`."""
        return {"structure": "raw", "version": str(self._library.__version__)}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int | None:
        """See `PsiEngine`; None for the responder."""
        reveal, library = talk.variant == "psi", self._library
        items = [(talk.session + e).hex() for e in talk.elements]
        n, m = len(items), talk.peer_size
        if talk.role == "responder":
            with talk.stage("hash and blind", n):
                server = library.server.CreateWithNewKey(reveal)
                raw_structure = library.DataStructure.RAW
                setup = server.CreateSetupMessage(_FALSE_POSITIVES, m, items, raw_structure)
            request = _receive(talk, library.Request())
            with talk.stage("blind again", m), _of_the_library("request"):
                response = server.ProcessRequest(request)
            for message in (setup, response):
                _send(talk, message)
            return None
        with talk.stage("hash and blind", n):
            client = library.client.CreateWithNewKey(reveal)
            request = client.CreateRequest(items)
        _send(talk, request)
        setup, response = (_receive(talk, of()) for of in (library.ServerSetup, library.Response))
        with talk.stage("blind again and compare", n + m), _of_the_library("answer"):
            if not reveal:
                return int(client.GetIntersectionSize(setup, response))
            return np.array(sorted(client.GetIntersection(setup, response)), dtype=np.int64)


@contextlib.contextmanager
def _of_the_library(what: str) -> Iterator[None]:
    """The library raises errors of many kinds at messages that are none of its own."""
    try:
        yield
    except Exception:
        raise MessageError(f"The peer's {what} is not one of the OpenMined library.") from None


def _send(talk: PsiSession, message: Any) -> None:
    raw = message.SerializeToString()
    talk.send("blob", np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1))


def _receive(talk: PsiSession, message: Any) -> Any:
    # A point has 33 bytes, and protobuf adds two or three to each.
    limit = 4096 + 64 * (len(talk.elements) + talk.peer_size)
    raw = talk.receive("blob", width=1, count=limit, or_fewer=True).tobytes()
    with _of_the_library("message"):
        message.ParseFromString(raw)
    return message

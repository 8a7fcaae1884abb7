"""Private set intersection with a linker: engines, parties, tokens, totals, output checks.

Heavy or optional libraries (Arrow Flight, tenseal, openmined-psi) load when they are first used.
"""

from .ecdh import EcdhEngine
from .plain import PlainEngine
from .protocol import (
    KeySet,
    MessageError,
    Outcome,
    Party,
    PeerLost,
    PsiEngine,
    PsiError,
    PsiResult,
    Transcript,
)
from .session import MemoryChannel, intersect, run_party

__all__ = [
    "EcdhEngine",
    "KeySet",
    "MemoryChannel",
    "MessageError",
    "Outcome",
    "Party",
    "PeerLost",
    "PlainEngine",
    "PsiEngine",
    "PsiError",
    "PsiResult",
    "Transcript",
    "intersect",
    "run_party",
]

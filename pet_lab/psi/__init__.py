"""Private set intersection with a linker: engines, data holders, tokens, totals, output checks.

The optional library openmined-psi loads when it is first used.
"""

# ruff: noqa: F401 - the package's face
from pet_lab.parties.errors import PartyError, PeerLost

from .ecdh import EcdhEngine
from .protocol import (
    DataHolder,
    KeySet,
    MessageError,
    PsiEngine,
    PsiError,
    PsiOutcome,
    PsiResult,
    Transcript,
)
from .session import intersect, run_party

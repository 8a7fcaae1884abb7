"""Engines by the names that commands and notebooks use."""

from .ecdh import EcdhEngine
from .protocol import PsiEngine, ensure


def engine_named(name: str, *, strangers: bool = False) -> PsiEngine:
    """The engine a name stands for, or PsiError if there is none or its library is not installed.

    The oracle is not among them: it protects nothing. `strangers` says that the peer is not of this
    process: native code then reads its bytes in another.
    """
    if name in ("rsa-3072", "rsa-2048", "rsa-4096"):
        from .rsa_blind import RsaEngine

        return RsaEngine(int(name[4:]))
    if name == "openmined":
        from .openmined import OpenMinedEngine

        return OpenMinedEngine(strangers=strangers)
    if name == "ecdh-proved":
        from .ecdh_proved import EcdhProvedEngine

        return EcdhProvedEngine()
    offered = "Engines are ecdh, ecdh-proved, rsa-3072, rsa-2048 and openmined"
    ensure(name == "ecdh", f"{offered}, got {name[:40]!r}.")
    return EcdhEngine()

"""Engines by the names that commands and notebooks use."""

from __future__ import annotations

from .ecdh import EcdhEngine
from .protocol import PsiEngine, PsiError


def engine_named(name: str) -> PsiEngine:
    """The engine a name stands for; the oracle is not among them: it protects nothing.

    Raises
    ------
    PsiError
        If there is no such engine, or its library is not installed.
    """
    if name == "ecdh":
        return EcdhEngine()
    if name in ("rsa-3072", "rsa-2048", "rsa-4096"):
        from .rsa_blind import RsaEngine

        return RsaEngine(int(name[4:]))
    if name == "openmined":
        from .openmined import OpenMinedEngine

        return OpenMinedEngine()
    raise PsiError(f"Engines are ecdh, rsa-3072, rsa-2048 and openmined, got {name[:40]!r}.")

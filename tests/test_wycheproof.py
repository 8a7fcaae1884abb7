"""The primitives that parties rely on, against the vectors of Project Wycheproof.

The vectors (C2SP/wycheproof, Apache-2.0) are not part of this repository: `PET_LAB_VECTORS` names
a folder of its JSON files, or they lie in `shared/vectors` beside the clone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pet_lab.parties.log import verify_signature
from pet_lab.psi import curve25519
from pet_lab.psi.protocol import MessageError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "vectors"


def cases(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each test of a file with its group; a skip with the reason where the file is absent."""
    path = Path(os.environ.get("PET_LAB_VECTORS", SHARED)) / name
    if not path.is_file():
        pytest.skip(f"no Wycheproof vectors: set PET_LAB_VECTORS to a folder that holds {name}")
    content = json.loads(path.read_text())
    pairs = [(group, test) for group in content["testGroups"] for test in group["tests"]]
    assert len(pairs) == content["numberOfTests"]
    return pairs


def test_x25519() -> None:
    """The ladder that blinds elements; a zero result is the point at infinity and is refused."""
    refused = 0
    for _, test in cases("x25519_test.json"):
        scalar, u, expected = (bytes.fromhex(test[k]) for k in ("private", "public", "shared"))
        if any(expected):
            assert curve25519.exponentiate(scalar, [u]).tobytes() == expected, test
        else:
            refused += 1
            with pytest.raises(MessageError, match="small order"):
                curve25519.exponentiate(scalar, [u])
    assert refused > 10


def test_what_x25519_calls_low_order_or_twisted_is_no_element() -> None:
    """`check_elements` refuses more than the ladder: also the twist and unusual encodings."""
    seen = set()
    for _, test in cases("x25519_test.json"):
        u = curve25519.bytes_of([bytes.fromhex(test["public"])], curve25519.WIDTH)
        bad = {"LowOrderPublic", "Twist", "NonCanonicalPublic"} & set(test["flags"])
        seen |= bad
        if bad:
            with pytest.raises(MessageError, match="canonical point"):
                curve25519.check_elements(u)
    assert seen == {"LowOrderPublic", "Twist", "NonCanonicalPublic"}


def test_aes_siv() -> None:
    """The cipher of column tokens: a tag that was altered never decrypts."""
    for _, test in cases("aead_aes_siv_cmac_test.json"):
        cipher = AESSIV(bytes.fromhex(test["key"]))
        bound = [bytes.fromhex(test["aad"]), bytes.fromhex(test["iv"])]
        token = bytes.fromhex(test["tag"]) + bytes.fromhex(test["ct"])
        if test["result"] == "valid":
            assert cipher.decrypt(token, bound) == bytes.fromhex(test["msg"]), test
            if test["msg"]:
                assert cipher.encrypt(bytes.fromhex(test["msg"]), bound) == token, test
        else:
            with pytest.raises(InvalidTag):
                cipher.decrypt(token, bound)


def test_ed25519() -> None:
    """Signatures of logs, approvals and commitments, by the function that all of them use."""
    for group, test in cases("ed25519_test.json"):
        valid = verify_signature(group["publicKey"]["pk"], bytes.fromhex(test["msg"]), test["sig"])
        assert valid == (test["result"] == "valid"), test


def test_hkdf_sha256() -> None:
    for _, test in cases("hkdf_sha256_test.json"):
        ikm, salt, info = (bytes.fromhex(test[k]) for k in ("ikm", "salt", "info"))
        if test["result"] == "valid":
            derived = HKDF(SHA256(), test["size"], salt, info).derive(ikm)
            assert derived == bytes.fromhex(test["okm"]), test
        else:
            with pytest.raises(ValueError, match="larger than 8160"):
                HKDF(SHA256(), test["size"], salt, info)

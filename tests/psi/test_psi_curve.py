"""Hash to curve against RFC 9380, membership, and the twist bit."""

import hashlib
import os

import numpy as np
import pandas as pd
import pytest
from nacl.bindings import crypto_scalarmult
from plain import elements_of

from pet_lab import psi
from pet_lab.psi import curve25519 as curve

P = 2**255 - 19
A = 486662
# RFC 9380, appendix J.4.2: curve25519_XMD:SHA-512_ELL2_NU_; u, then x of Q and of P = 8 Q.
DST = b"QUUX-V01-CS02-with-curve25519_XMD:SHA-512_ELL2_NU_"
VECTORS = [
    (
        b"",
        "608d892b641f0328523802a6603427c26e55e6f27e71a91a478148d45b5093cd",
        "51125222da5e763d97f3c10fcc92ea6860b9ccbbd2eb1285728f566721c1e65b",
        "1bb913f0c9daefa0b3375378ffa534bda5526c97391952a7789eb976edfe4d08",
    ),
    (
        b"abc",
        "46f5b22494bfeaa7f232cc8d054be68561af50230234d7d1d63d1d9abeca8da5",
        "7d56d1e08cb0ccb92baf069c18c49bb5a0dcd927eff8dcf75ca921ef7f3e6eeb",
        "7c22950b7d900fa866334262fcaea47a441a578df43b894b4625c9b450f9a026",
    ),
    (
        b"abcdef0123456789",
        "235fe40c443766ce7e18111c33862d66c3b33267efa50d50f9e8e5d252a40aaa",
        "3fbe66b9c9883d79e8407150e7c2a1c8680bee496c62fabe4619a72b3cabe90f",
        "31ad08a8b0deeb2a4d8b0206ca25f567ab4e042746f792f4b7973f3ae2096c52",
    ),
]


def expand_message_xmd(message, dst, length):
    """RFC 9380, section 5.3.1, with SHA-512: the slow definition."""
    tag = dst + bytes([len(dst)])
    b0 = hashlib.sha512(bytes(128) + message + length.to_bytes(2, "big") + b"\0" + tag).digest()
    blocks = [hashlib.sha512(b0 + b"\1" + tag).digest()]
    while len(blocks) * 64 < length:
        mixed = bytes(x ^ y for x, y in zip(b0, blocks[-1], strict=True))
        blocks.append(hashlib.sha512(mixed + bytes([len(blocks) + 1]) + tag).digest())
    return b"".join(blocks)[:length]


def map_to_curve_u(t):
    """Elligator 2 of RFC 9380, section 6.7.1: the u-coordinate, by the definition."""
    x1 = -A * pow(1 + 2 * t * t, -1, P) % P
    square = pow(((x1 + A) * x1 + 1) * x1, (P - 1) // 2, P) in (0, 1)
    return x1 if square else (-x1 - A) % P


def on_curve(element):
    """Whether `check_elements` takes it."""
    try:
        curve.check_elements(np.frombuffer(element, dtype=np.uint8).reshape(1, 32))
    except psi.MessageError:
        return False
    return True


def times_eight(u):
    """x-coordinate of 8 times a point, by the doubling formula of Montgomery curves."""
    for _ in range(3):
        u = (u * u - 1) ** 2 * pow(4 * u * (u * u + A * u + 1), -1, P) % P
    return u


@pytest.mark.parametrize(("message", "field", "q_x", "p_x"), VECTORS, ids=["empty", "abc", "long"])
def test_the_vectors_of_rfc_9380(message, field, q_x, p_x):
    wide = expand_message_xmd(message, DST, 48)
    assert int.from_bytes(wide, "big") % P == int(field, 16)
    assert map_to_curve_u(int(field, 16)) == int(q_x, 16)
    (encoded,) = curve.encode_to_curve([message], DST)
    assert int.from_bytes(encoded, "little") == int(q_x, 16)
    assert times_eight(int(q_x, 16)) == int(p_x, 16)


def test_clamping_clears_the_cofactor():
    # k*Q for clamped k is (k/8)*(8Q): the part of small order never reaches the wire.
    (q,) = curve.encode_to_curve([b"abc"], DST)
    k = bytearray(os.urandom(32))
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    cleared = times_eight(int.from_bytes(q, "little")).to_bytes(32, "little")
    eighth = (int.from_bytes(k, "little") // 8) % (2**252 + 27742317777372353535851937790883648493)
    # X25519 would clamp k/8, so compare through the relation 8 * ((k/8) * 8Q) = 8 * (k * Q).
    by_k = times_eight(int.from_bytes(crypto_scalarmult(bytes(k), q), "little"))
    assert by_k == times_eight(ladder(eighth, int.from_bytes(cleared, "little")))


def ladder(k, u):
    """Montgomery ladder over plain integers: the slow definition."""
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in bin(k)[2:]:
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a % P, c * b % P
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        e = (a * a - b * b) % P
        x2, z2 = a * a * b * b % P, e * (a * a + 121665 * e) % P
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 * pow(z2, -1, P) % P


def on_the_curve(element):
    u = int.from_bytes(element, "little")
    return pow(u * (u * u + A * u + 1), (P - 1) // 2, P) == 1


def twist_bits(elements):
    return np.array([not on_the_curve(e) for e in elements])


def test_no_element_on_the_wire_carries_a_twist_bit():
    ids = [f"{i}" for i in range(150)]
    sides = [psi.DataHolder(n, pd.DataFrame({"id": ids})) for n in ("a", "b")]
    result = psi.intersect(psi.EcdhEngine(), *sides, on="id")
    for kind in ("blinded", "twice_blinded"):
        for sender in ("a", "b"):
            sent = elements_of(result.transcript, kind=kind, sender=sender)
            assert len(sent) == 150
            assert not twist_bits(sent).any()


def test_the_twist_test_catches_a_hash_straight_to_a_coordinate():
    # What the shortcut would do: SHA-256 as u. Its side, curve or twist, survives every blinding.
    secret = os.urandom(32)
    hashed = [hashlib.sha256(f"{i}".encode()).digest()[:31] + b"\0" for i in range(150)]
    blinded = [crypto_scalarmult(secret, h) for h in hashed]
    assert (twist_bits(blinded) == twist_bits(hashed)).all()
    assert 0.3 < twist_bits(blinded).mean() < 0.7


def test_the_map_reaches_both_of_its_branches_and_only_the_curve():
    encoded = curve.encode_to_curve([os.urandom(8) for _ in range(300)], DST)
    assert len(set(encoded)) == 300
    assert all(on_curve(e) for e in encoded)


def test_many_good_elements_pass_and_are_split_again():
    encoded = curve.encode_to_curve([bytes([i]) for i in range(7)], DST)
    rows = np.frombuffer(b"".join(encoded), dtype=np.uint8).reshape(7, 32)
    curve.check_elements(rows)
    assert curve.split(rows) == encoded


def little(x):
    return x.to_bytes(32, "little")


BAD = {
    "zero": little(0),
    "one, order 4": little(1),
    "minus one, order 4": little(P - 1),
    "order 8": little(sorted(curve.SMALL_ORDER)[2]),
    "order 8, the other": little(sorted(curve.SMALL_ORDER)[3]),
    "p": little(P),
    "p + 9, not canonical": little(P + 9),
    "high bit set": little(9 | 1 << 255),
    "all ones": b"\xff" * 32,
    "on the twist": little(next(u for u in range(2, 50) if not on_the_curve(little(u)))),
}


@pytest.mark.parametrize("element", BAD.values(), ids=BAD.keys())
def test_bad_elements_are_refused(element):
    assert not on_curve(element)
    good = little(9)
    rows = np.frombuffer(good + element + good, dtype=np.uint8).reshape(3, 32)
    with pytest.raises(psi.MessageError, match="Element 1 is not a canonical point"):
        curve.check_elements(rows)


def test_the_small_orders_are_all_of_them():
    # Orders 1 or 2, 4 on the curve, 4 on the twist, and two of order 8; no more exist.
    assert {0, 1, P - 1} < curve.SMALL_ORDER
    assert len(curve.SMALL_ORDER) == 5
    # Every u whose multiple by 8 is the point at infinity: the denominator vanishes on the way.
    for u in curve.SMALL_ORDER:
        x, z = u, 1
        for _ in range(3):
            x, z = (x * x - z * z) ** 2 % P, 4 * x * z * (x * x + A * x * z + z * z) % P
        assert z == 0
    assert on_curve(little(9))


def test_a_domain_separation_tag_has_at_most_255_bytes():
    assert curve.encode_to_curve([b""], b"d" * 255)
    with pytest.raises(ValueError, match="at most 255 bytes, got 256"):
        curve.encode_to_curve([b""], b"d" * 256)


def test_the_hash_is_that_of_the_slow_definition():
    messages = [b"m" * n for n in range(200)]
    for dst in (b"", b"d", b"e" * 255):
        for message, encoded in zip(messages, curve.encode_to_curve(messages, dst), strict=True):
            t = int.from_bytes(expand_message_xmd(message, dst, 48), "big") % P
            assert int.from_bytes(encoded, "little") == map_to_curve_u(t)


@pytest.mark.parametrize("binding", [curve._sodium, None], ids=["direct", "public functions"])
def test_exponentiation_is_that_of_rfc_7748(binding, monkeypatch):
    monkeypatch.setattr(curve, "_sodium", binding)
    # RFC 7748, section 5.2, first vector.
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    u = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    want = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    made = curve.exponentiate(scalar, [u, little(9), u])
    assert [bytes(r).hex() for r in made[[0, 2]]] == [want, want]
    assert made.shape == (3, 32)
    assert curve.exponentiate(scalar, []).shape == (0, 32)
    with pytest.raises(psi.MessageError, match="small order"):
        curve.exponentiate(scalar, [little(1)])

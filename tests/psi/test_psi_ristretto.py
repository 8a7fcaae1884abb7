"""The proof of many exponents against RFC 9497's vectors, against `voprf`, and against lies."""

import hashlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
from voprf import ristretto as peer

from pet_lab.psi import ecdh_proved, ristretto
from pet_lab.psi.protocol import MessageError
from pet_lab.psi.ristretto import GENERATOR, ORDER, accepts, hash_to_group, prove, times

CONTEXT = b"OPRFV1-\x01-ristretto255-SHA512"  # VOPRF mode
SEED, INFO = b"\xa3" * 32, b"test key"

# RFC 9497, appendix A.1.2, all of its vectors, as draft-irtf-cfrg-voprf.md of the repository
# cfrg/draft-irtf-cfrg-voprf has them.
SECRET = "e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909"
PUBLIC = "c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e"
FIRST = "64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706"
SECOND = "222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e"
OUTPUTS = {
    "00": "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7d"
    "a4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c",
    "5a" * 17: "8a9a2f3c7f085b65933594309041fc1898d42d0858e59f90814ae90571a6df60"
    "356f4610bf816f27afdd84f47719e480906d27ecd994985890e5f539e7ea74b6",
}
VECTORS = [
    {
        "input": ["00"],
        "blind": [FIRST],
        "blinded": ["863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945"],
        "evaluated": ["aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e"],
        "proof": "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd06"
        "6d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d",
        "nonce": SECOND,
    },
    {
        "input": ["5a" * 17],
        "blind": [FIRST],
        "blinded": ["cc0b2a350101881d8a4cba4c80241d74fb7dcbfde4a61fde2f91443c2bf9ef0c"],
        "evaluated": ["60a59a57208d48aca71e9e850d22674b611f752bed48b36f7a91b372bd7ad468"],
        "proof": "401a0da6264f8cf45bb2f5264bc31e109155600babb3cd4e5af7d181a2c9dc0a"
        "67154fabf031fd936051dec80b0b6ae29c9503493dde7393b722eafdf5a50b02",
        "nonce": SECOND,
    },
    {
        "input": ["00", "5a" * 17],
        "blind": [FIRST, SECOND],
        "blinded": [
            "863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945",
            "90a0145ea9da29254c3a56be4fe185465ebb3bf2a1801f7124bbbadac751e654",
        ],
        "evaluated": [
            "aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e",
            "cc5ac221950a49ceaa73c8db41b82c20372a4c8d63e5dded2db920b7eee36a2a",
        ],
        "proof": "cc203910175d786927eeb44ea847328047892ddf8590e723c37205cb74600b0a"
        "5ab5337c8eb4ceae0494c2cf89529dcf94572ed267473d567aeed6ab873dee08",
        "nonce": "419c4f4f5052c53c45f3da494d2b67b220d02118e0857cdbcf037f9ea84bbe0c",
    },
]


def of(texts):
    return [bytes.fromhex(text) for text in texts]


def output(message, blind, evaluated):
    """Finalize of RFC 9497, section 3.3.1."""
    inverse = pow(int.from_bytes(blind, "little"), -1, ORDER).to_bytes(32, "little")
    parts = (message, times(inverse, evaluated))
    raw = b"".join(len(part).to_bytes(2, "big") + part for part in parts) + b"Finalize"
    return hashlib.sha512(raw).digest()


@pytest.mark.parametrize("vector", VECTORS, ids=["first", "second", "batch of two"])
def test_the_vectors_of_rfc_9497(vector):
    secret, public = of([SECRET, PUBLIC])
    messages, blinds = of(vector["input"]), of(vector["blind"])
    blinded = [times(b, hash_to_group(m, CONTEXT)) for m, b in zip(messages, blinds, strict=True)]
    assert blinded == of(vector["blinded"])
    evaluated = [times(secret, element) for element in blinded]
    assert evaluated == of(vector["evaluated"])
    nonce = bytes.fromhex(vector["nonce"])
    proof = prove(secret, public, blinded, evaluated, CONTEXT, nonce=nonce)
    assert proof.hex() == vector["proof"]
    assert accepts(public, blinded, evaluated, CONTEXT, proof)
    got = [output(*each).hex() for each in zip(messages, blinds, evaluated, strict=True)]
    assert got == [OUTPUTS[text] for text in vector["input"]]


def test_the_key_of_rfc_9497_is_derived_from_its_seed():
    raw = SEED + len(INFO).to_bytes(2, "big") + INFO + b"\0"
    dst = b"DeriveKeyPair" + CONTEXT
    scalar = ristretto.expand(raw, dst)
    secret = int.from_bytes(scalar, "little") % ORDER
    assert secret.to_bytes(32, "little").hex() == SECRET
    assert times(secret.to_bytes(32, "little"), GENERATOR).hex() == PUBLIC


@pytest.mark.parametrize("n", [1, 2, 40])
def test_voprf_accepts_our_proofs_and_we_accept_its(n):
    secret, public = of([SECRET, PUBLIC])
    evaluator = peer.Evaluator.from_seed(SEED, INFO)
    assert evaluator.public_key.serialize() == public
    messages = [b"key %d" % i for i in range(n)]
    clients, blinded = zip(*map(peer.Client.blind, messages), strict=True)
    before = [element.serialize() for element in blinded]
    after = [times(secret, element) for element in before]
    theirs = evaluator.evaluate_batch(blinded).serialize()
    proof, rows = theirs[:64], theirs[64:]
    if rows != b"".join(after):
        rows, proof = theirs[:-64], theirs[-64:]
    assert rows == b"".join(after)
    assert accepts(public, before, after, CONTEXT, proof)
    ours = prove(secret, public, before, after, CONTEXT)
    sent = rows + ours if theirs.startswith(rows) else ours + rows
    answer = peer.VerifiableBatchOutput.deserialize(sent)
    outputs = peer.Client.finalize_batch(clients, answer, evaluator.public_key)
    assert outputs == [evaluator.evaluate_known_input(message) for message in messages]


def pairs(n):
    secret = ristretto.random_scalar()
    before = [hash_to_group(b"%d" % i, CONTEXT) for i in range(n)]
    after = [times(secret, element) for element in before]
    return secret, times(secret, GENERATOR), before, after


def test_what_is_not_true_is_not_accepted():
    secret, public, before, after = pairs(4)
    proof = prove(secret, public, before, after, CONTEXT)
    assert accepts(public, before, after, CONTEXT, proof)
    other = times(ristretto.random_scalar(), before[0])
    swapped = [after[1], after[0], *after[2:]]
    for lie in (swapped, [other, *after[1:]], [before[0], *after[1:]]):
        assert not accepts(public, before, lie, CONTEXT, proof)
        assert not accepts(
            public, before, lie, CONTEXT, prove(secret, public, before, lie, CONTEXT)
        )
    assert not accepts(before[0], before, after, CONTEXT, proof)
    assert not accepts(public, before[::-1], after[::-1], CONTEXT, proof)
    assert not accepts(public, before, after, b"another session", proof)
    for at in (0, 40):
        assert not accepts(public, before, after, CONTEXT, flipped(proof, at))
    s = int.from_bytes(proof[32:], "little") + ORDER  # the same number, not canonical
    assert not accepts(public, before, after, CONTEXT, proof[:32] + s.to_bytes(32, "little"))


def test_one_changed_answer_draws_all_weights_anew(monkeypatch):
    # In RFC 9497 a weight hangs on its own pair, so the others stay as they are.
    drawn, weigh = [], ristretto._weights

    def spy(*given):
        drawn.append(weigh(*given))
        return drawn[-1]

    monkeypatch.setattr(ristretto, "_weights", spy)
    secret, public, before, after = pairs(5)
    talk = SimpleNamespace(session=bytes(16))
    for answers in (after, [*after[:-1], before[0]]):
        prove(secret, public, before, answers, CONTEXT)
        context = ecdh_proved._context(talk, "a", slice(0, 5), before, answers)
        prove(secret, public, before, answers, context)
    assert len(set(drawn[0]) & set(drawn[2])) == 4
    assert not set(drawn[1]) & set(drawn[3])


def flipped(raw, at):
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "element",
    [bytes(32), b"\xff" * 32, (1).to_bytes(32, "little"), (2**255 - 19 + 4).to_bytes(32, "little")],
    ids=["zero", "ones", "negative", "not canonical"],
)
def test_what_is_no_element_is_refused_in_one_sentence(element):
    secret, public, before, after = pairs(2)
    proof = prove(secret, public, before, after, CONTEXT)
    with pytest.raises(MessageError, match="not one of ristretto255, or it is zero"):
        times(secret, element)
    with pytest.raises(MessageError, match="not one of ristretto255, or it is zero"):
        accepts(public, before, [after[0], element], CONTEXT, proof)
    with pytest.raises(MessageError, match="not one of ristretto255, or it is zero"):
        accepts(element, before, after, CONTEXT, proof)


def test_a_proof_is_of_one_session_one_prover_and_one_place():
    secret, public, before, after = pairs(3)

    def context(session=bytes(16), prover="a", start=0, answers=after):
        talk, rows = SimpleNamespace(session=session), slice(start, start + 3)
        return ecdh_proved._context(talk, prover, rows, before, answers)

    proof = prove(secret, public, before, after, context())
    assert accepts(public, before, after, context(), proof)
    for other in (
        context(session=b"\1" + bytes(15)),
        context(prover="b"),
        context(start=ecdh_proved.STEP),
        context(answers=after[::-1]),
    ):
        assert not accepts(public, before, after, other, proof)


def test_the_library_leaves_no_file_behind():
    code = (
        "import os, sys, pet_lab.psi.ristretto; path = sys.modules['rbcl._sodium'].lib_path; "
        "print(os.path.exists(path))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"

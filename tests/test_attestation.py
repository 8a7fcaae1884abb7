"""The simulated enclave's protocol: each check on its own, and what the host sees."""

import msgspec
import pytest

from pet_lab import enclave
from pet_lab.parties.errors import Refused
from pet_lab.parties.log import Signer


def double(inputs):
    return b"".join(inputs[name] * 2 for name in sorted(inputs))


def triple(inputs):
    return b"".join(inputs[name] * 3 for name in sorted(inputs))


@pytest.fixture
def scene():
    author, maker = Signer("author"), enclave.Maker()
    code = enclave.release(double, 2, author)
    inside = maker.platform().start(double, code)
    verifier = enclave.Verifier(maker.root, code.measurement, author.public, least_version=2)
    return author, maker, inside, verifier


def test_everybody_gets_the_output_and_the_host_sees_no_data():
    secret = b"an income of 4711 a month"
    session = enclave.compute(double, {"a": secret, "b": b"another"})
    assert session.output == secret * 2 + b"another" * 2
    assert secret not in session.seen
    assert sum(session.sizes.values()) == len(session.seen)


def test_a_measurement_is_of_the_text():
    assert enclave.measure(double) == enclave.measure(double) != enclave.measure(triple)


@pytest.mark.parametrize("field", ["code", "nonce", "public", "certificate", "signature"])
def test_every_field_of_a_quote_is_covered(scene, field):
    author, maker, inside, verifier = scene
    first = msgspec.json.decode(inside.quote(verifier.challenge()), type=enclave.Quote)
    other = maker.platform().start(double, enclave.release(double, 3, author))
    second = msgspec.json.decode(other.quote(verifier.challenge()), type=enclave.Quote)
    mixed = msgspec.structs.replace(first, **{field: getattr(second, field)})
    with pytest.raises(Refused, match="not signed by its platform"):
        verifier.check(msgspec.json.encode(mixed))
    verifier.check(msgspec.json.encode(first))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"\xff", b"[" * 9000, b'{"code": null}'])
def test_bytes_that_are_no_quote_are_one_sentence(scene, raw):
    with pytest.raises(Refused, match=r"^The quote is cut off or malformed\.$"):
        scene[3].check(raw)
    with pytest.raises(Refused, match="at most 16384 bytes"):
        scene[3].check(b"x" * 20_000)


def test_a_refused_quote_leaves_its_challenge_open(scene):
    _, _, inside, verifier = scene
    nonce = verifier.challenge()
    with pytest.raises(Refused, match="malformed"):
        verifier.check(inside.quote(nonce)[:-9])
    assert verifier.check(inside.quote(nonce)).nonce == nonce


def test_a_released_key_opens_for_its_enclave_and_party_only(scene):
    author, maker, inside, verifier = scene
    party = enclave.Participant("a", b"data", verifier)
    wrapped = party.wrap(inside.quote(verifier.challenge()))
    other = maker.platform().start(double, enclave.release(double, 2, author))
    for where, name in ((other, "a"), (inside, "b")):
        with pytest.raises(Refused, match="not under this key"):
            where.accept(name, wrapped)
    with pytest.raises(Refused, match="cut off or of small order"):
        inside.accept("a", wrapped[:20])
    with pytest.raises(Refused, match="cut off or of small order"):
        inside.accept("a", bytes(32) + wrapped[32:])
    inside.accept("a", wrapped)
    assert party.read(inside.run({"a": party.upload})["a"]) == b"datadata"


def test_an_output_is_no_input_and_no_other_partys(scene):
    _, _, inside, verifier = scene
    party = enclave.Participant("a", b"data", verifier)
    inside.accept("a", party.wrap(inside.quote(verifier.challenge())))
    outputs = inside.run({"a": party.upload})
    with pytest.raises(Refused, match="changed"):
        inside.run(outputs)
    with pytest.raises(Refused, match="Data or key are missing of b"):
        inside.run({"a": party.upload, "b": party.upload})


def test_a_newer_version_reads_what_an_older_one_sealed(scene):
    author, _, inside, _ = scene
    newer = inside.platform.start(triple, enclave.release(triple, 3, author))
    assert newer.unseal(inside.seal(b"state")) == b"state"
    with pytest.raises(Refused, match="version 2 may not read what is newer"):
        inside.unseal(newer.seal(b"state"))


def test_sealed_data_of_another_author_or_cut_off_are_refused(scene):
    _, _, inside, _ = scene
    stranger = inside.platform.start(double, enclave.release(double, 2, Signer("x")))
    sealed = inside.seal(b"state")
    with pytest.raises(Refused, match="not under this key"):
        stranger.unseal(sealed)
    for cut in (b"", sealed[:3], b"[2,1]x"):
        with pytest.raises(Refused):
            inside.unseal(cut)
    renamed = sealed.replace(b"[2,1]", b"[1,1]")
    with pytest.raises(Refused, match="changed"):
        inside.unseal(renamed)


def test_code_with_a_changed_version_does_not_start(scene):
    author, maker, _, _ = scene
    code = msgspec.structs.replace(enclave.release(double, 1, author), version=9)
    with pytest.raises(Refused, match="does not carry its author's signature"):
        maker.platform().start(double, code)

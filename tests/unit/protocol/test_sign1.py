"""COSE_Sign1: what is signed, which headers are believed, which key counts."""

from dataclasses import replace

import pytest

from protocol import cbor
from protocol.cose import sign1
from protocol.cose.algorithms import Algorithm, KeyKind
from protocol.cose.keys import PrivateKey, generate
from protocol.cose.sign1 import Header
from protocol.errors import AuthenticityError, DecodeError, OtaError, UnsupportedError

KEY = generate(KeyKind.P256)
OTHER = generate(KeyKind.P256)
ED25519 = generate(KeyKind.ED25519)
PAYLOAD = b"payload"


def members(**changes: cbor.Value) -> cbor.Tag:
    """A COSE_Sign1 as its four members, some of them replaced; the signature covers the protected header given."""
    protected = changes.get("protected", cbor.encode({Header.ALG: Algorithm.ESP256}))
    covered = protected if isinstance(protected, bytes) else b""
    signature = KEY.sign(cbor.encode(("Signature1", covered, b"", PAYLOAD)))
    return cbor.Tag(
        sign1.TAG,
        (protected, changes.get("unprotected", {}), changes.get("payload"), changes.get("signature", signature)),
    )


def accepts(value: cbor.Value) -> bool:
    decoded = sign1.decode(cbor.decode(cbor.encode(value)), "block")
    sign1.verify(decoded, PAYLOAD, (KEY.public,))
    return True


@pytest.mark.spec("RFC 9052 4.4")
def test_the_signature_covers_the_structure_of_the_standard() -> None:
    value = sign1.sign(KEY, PAYLOAD)
    protected, unprotected, payload, signature = value.value
    assert (value.number, protected.hex(), unprotected, payload) == (18, "a10128", {}, None)
    KEY.public.verify(Algorithm.ESP256, signature, cbor.encode(("Signature1", protected, b"", PAYLOAD)))


@pytest.mark.parametrize("key", [KEY, ED25519, replace(KEY, kid=b"k1")], ids=["P-256", "Ed25519", "kid"])
@pytest.mark.parametrize("attached", [False, True])
def test_what_is_signed_verifies(key: PrivateKey, attached: bool) -> None:
    decoded = sign1.decode(cbor.decode(cbor.encode(sign1.sign(key, PAYLOAD, attached=attached))), "block")
    assert decoded.payload == (PAYLOAD if attached else None)
    assert decoded.kid == key.kid
    assert sign1.verify(decoded, PAYLOAD, (OTHER.public, key.public)) == key.public
    with pytest.raises(AuthenticityError):
        sign1.verify(decoded, PAYLOAD + b"!", (key.public,))
    with pytest.raises(AuthenticityError):
        sign1.verify(decoded, PAYLOAD, (OTHER.public,))
    with pytest.raises(AuthenticityError):
        sign1.verify(decoded, PAYLOAD, ())


def test_the_older_identifier_of_the_same_algorithm_verifies() -> None:
    for key, older in ((KEY, Algorithm.ES256), (ED25519, Algorithm.EDDSA)):
        decoded = sign1.decode(sign1.sign(key, PAYLOAD, algorithm=older), "block")
        assert decoded.algorithm is older
        assert sign1.verify(decoded, PAYLOAD, (key.public,)) == key.public


def test_the_helper_of_these_tests_makes_a_good_block() -> None:
    assert accepts(members())


@pytest.mark.parametrize(
    ("value", "error", "reason"),
    [
        (members().value, UnsupportedError, 2),
        (cbor.Tag(17, members().value), UnsupportedError, 2),
        (cbor.Tag(98, members().value), UnsupportedError, 2),
        (cbor.Tag(18, members().value[:3]), DecodeError, 1),
        (cbor.Tag(18, (*members().value, b"")), DecodeError, 1),
        (cbor.Tag(18, {}), DecodeError, 1),
        (cbor.Tag(18, None), DecodeError, 1),
        (members(protected={}), DecodeError, 1),
        (members(protected=b""), UnsupportedError, 2),
        (members(protected=b"\xa0"), UnsupportedError, 2),
        (members(protected=b"\xa1\x01\x38\x08"), DecodeError, 1),
        (members(protected=b"\xa2\x01\x28\x01\x28"), DecodeError, 1),
        (members(protected=b"\xa1\xf5\x28"), DecodeError, 1),
        (members(protected=b"\x80"), DecodeError, 1),
        (members(protected=b"", unprotected={1: -9}), UnsupportedError, 2),
        (members(unprotected={1: -9}), DecodeError, 1),
        (members(unprotected=()), DecodeError, 1),
        (members(unprotected={2: (1,)}), DecodeError, 1),
        (members(unprotected={4: "text"}), DecodeError, 1),
        (members(protected=cbor.encode({1: -9, 4: 7})), DecodeError, 1),
        (members(protected=cbor.encode({1: -9, 4: b"a"}), unprotected={4: b"b"}), DecodeError, 1),
        (members(protected=cbor.encode({1: 5})), UnsupportedError, 3),
        (members(protected=cbor.encode({1: -35})), UnsupportedError, 3),
        (members(protected=cbor.encode({1: "ESP256"})), UnsupportedError, 3),
        (members(protected=cbor.encode({1: None})), UnsupportedError, 3),
        (members(protected=cbor.encode({1: True})), UnsupportedError, 3),
        (members(protected=cbor.encode({1: {}})), UnsupportedError, 3),
        (members(protected=cbor.encode({1: (-9,)})), UnsupportedError, 3),
        (members(protected=cbor.encode({1: -9, 2: ()})), DecodeError, 1),
        (members(protected=cbor.encode({1: -9, 2: 1})), DecodeError, 1),
        (members(protected=cbor.encode({1: -9, 2: (-70_000,), -70_000: 1})), UnsupportedError, 2),
        (members(protected=cbor.encode({1: -9, 2: (4,)}), unprotected={4: b"k"}), UnsupportedError, 2),
        (members(protected=cbor.encode({1: -9, 2: (True,)})), UnsupportedError, 2),
        (members(protected=cbor.encode({1: -9, 2: ({},)})), UnsupportedError, 2),
        (members(protected=cbor.encode({1: -9, 2: ((),)})), UnsupportedError, 2),
        (members(protected=cbor.encode({1: -9, 2: (cbor.Tag(1, {}),)})), UnsupportedError, 2),
        (members(payload="text"), DecodeError, 1),
        (members(payload=0), DecodeError, 1),
        (members(signature=None), DecodeError, 1),
        (members(signature=b""), AuthenticityError, 4),
        (members(signature=bytes(64)), AuthenticityError, 4),
        (members(protected=cbor.encode({1: -19})), AuthenticityError, 4),
        (members(protected=cbor.encode({1: -8})), AuthenticityError, 4),
    ],
)
def test_a_block_that_is_not_as_the_standard_says_is_refused(
    value: cbor.Value, error: type[OtaError], reason: int
) -> None:
    with pytest.raises(error) as refused:
        accepts(value)
    assert refused.value.reason == reason


@pytest.mark.spec("RFC 9052 3.1")
def test_a_critical_header_that_is_understood_is_accepted() -> None:
    assert accepts(members(protected=cbor.encode({1: -9, 2: (1,)})))
    assert accepts(members(protected=cbor.encode({1: -9, 2: (4, 1), 4: b"k"})))


def test_headers_that_nobody_calls_critical_are_passed_over() -> None:
    assert accepts(members(protected=cbor.encode({1: -9, 33: b"x5chain"}), unprotected={"note": (1, {2: 3})}))


def test_a_protected_header_is_verified_as_received() -> None:
    swapped = members(protected=cbor.encode({1: -9, 4: b"k"}), signature=members().value[3])
    with pytest.raises(AuthenticityError):
        accepts(swapped)


def test_a_kid_narrows_the_choice_but_proves_nothing() -> None:
    one, two = replace(KEY, kid=b"1"), replace(OTHER, kid=b"2")
    signed = sign1.decode(sign1.sign(one, PAYLOAD), "block")
    assert sign1.verify(signed, PAYLOAD, (two.public, one.public)) == one.public
    # A stranger's signature under a trusted kid.
    forged = sign1.decode(sign1.sign(replace(OTHER, kid=b"1"), PAYLOAD), "block")
    with pytest.raises(AuthenticityError):
        sign1.verify(forged, PAYLOAD, (one.public,))
    # A good signature under the kid of another key.
    renamed = sign1.decode(sign1.sign(replace(KEY, kid=b"2"), PAYLOAD), "block")
    with pytest.raises(AuthenticityError):
        sign1.verify(renamed, PAYLOAD, (one.public, two.public))
    # The same kid on two keys: each of them is tried.
    twin = replace(OTHER, kid=b"1")
    assert sign1.verify(signed, PAYLOAD, (twin.public, one.public)) == one.public
    # A key that carries no kid is tried whatever the block says.
    assert sign1.verify(signed, PAYLOAD, (KEY.public,)) == KEY.public


def test_a_signature_for_another_context_does_not_count() -> None:
    protected = cbor.encode({Header.ALG: Algorithm.ESP256})
    for structure in (("Signature", protected, b"", PAYLOAD), ("Signature1", protected, b"aad", PAYLOAD)):
        with pytest.raises(AuthenticityError):
            accepts(members(signature=KEY.sign(cbor.encode(structure))))

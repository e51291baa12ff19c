"""RIOT's dialect, field by field, and the limits of its devices."""

from dataclasses import replace
from hashlib import sha256

import pytest

from protocol import cbor
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import generate
from protocol.errors import DecodeError, PolicyError, UnsupportedError
from protocol.suit.authentication import authenticate
from protocol.suit.identifiers import RIOT_VENDOR_DOMAIN, class_id, vendor_id
from protocol.suit.riot import RiotRelease, build_riot_envelope, parse_component

KEY = generate(KeyKind.ED25519)
VENDOR = vendor_id(RIOT_VENDOR_DOMAIN)
RELEASE = RiotRelease(
    sequence_number=3,
    vendor_id=VENDOR,
    class_id=class_id(VENDOR, "native64"),
    component=(b"ram", b"0"),
    digest=sha256(b"payload").digest(),
    size=7,
    uri="coap://[2001:db8::1]/p/0011223344556677",
)


@pytest.mark.parametrize("component", [(b"ram", b"0"), (b"/nvm0/SLOT0.txt",), (b"00",)])
def test_the_envelope_is_the_dialect_and_nothing_else(component: tuple[bytes, ...]) -> None:
    envelope = cbor.decode(build_riot_envelope(replace(RELEASE, component=component), KEY))
    assert isinstance(envelope, dict)  # no tag 107
    assert list(envelope) == [2, 3]
    (block,) = cbor.decode(envelope[2])
    sign1 = cbor.decode(block)
    assert sign1.number == 18
    protected, unprotected, payload, signature = sign1.value
    assert cbor.decode(protected) == {1: -8}
    assert unprotected == {}
    assert cbor.decode(payload) == (2, sha256(cbor.wrap(envelope[3])).digest())
    structure = cbor.encode(("Signature1", protected, b"", payload))
    assert len(structure) <= 180
    KEY.raw.public_key().verify(signature, structure)  # type: ignore[call-arg]  # Ed25519: generated above
    manifest = cbor.decode(envelope[3])
    assert list(manifest) == [1, 2, 3, 9, 10]
    assert (manifest[1], manifest[2]) == (1, 3)
    common = cbor.decode(manifest[3])
    assert list(common) == [2, 4]
    assert common[2] == (component,)
    digest = cbor.encode((2, RELEASE.digest))
    parameters = {1: VENDOR, 2: RELEASE.class_id, 3: digest, 14: 7}
    assert cbor.decode(common[4]) == (20, parameters, 1, 15, 2, 15)
    assert cbor.decode(manifest[9]) == (20, {21: RELEASE.uri}, 21, 2, 3, 15)
    assert cbor.decode(manifest[10]) == (3, 15)


def test_identifiers_are_those_that_a_board_computes() -> None:
    assert VENDOR.hex() == "547d0d746d3a5a9296624881afd9407b"
    assert RELEASE.class_id.hex() == "9251dc23fd9d503f94c4bfb95f3167b1"


def test_a_kid_of_the_key_stays_at_home() -> None:
    signed = build_riot_envelope(replace(RELEASE), replace(KEY, kid=b"k" * 64))
    assert signed == build_riot_envelope(RELEASE, KEY)


def test_our_own_processor_refuses_the_old_dialect() -> None:
    with pytest.raises((DecodeError, UnsupportedError)):
        authenticate(build_riot_envelope(RELEASE, KEY), (KEY.public,), allow_untagged=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"component": ()}, "component name of 0 bytes"),
        ({"component": (b"",)}, "component name of 0 bytes"),
        ({"component": (b"/nvm0/" + b"x" * 26,)}, "component name of 32 bytes, RIOT takes 1 to 31"),
        ({"uri": "/p/00"}, "RIOT needs an absolute coap:// URI"),
        ({"uri": "coaps://host/p"}, "RIOT needs an absolute coap:// URI"),
        ({"uri": "coap://host/" + "x" * 116}, "URI of 128 characters, RIOT takes 127"),
        ({"uri": "coap://hôst/p"}, "printable ASCII"),
        ({"uri": "coap://host/p\x00"}, "printable ASCII"),
        ({"sequence_number": 0}, "sequence number 0 does not fit"),
        ({"sequence_number": -1}, "sequence number -1 does not fit"),
        ({"sequence_number": 2**32}, "sequence number 4294967296 does not fit"),
    ],
)
def test_what_the_device_cannot_take_is_refused_in_words(changes: dict[str, object], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        build_riot_envelope(replace(RELEASE, **changes), KEY)  # type: ignore[arg-type]  # one field at a time


def test_what_just_fits_is_written() -> None:
    largest = replace(
        RELEASE,
        component=(b"x" * 31,),
        uri="coap://host/" + "x" * 115,
        sequence_number=2**32 - 1,
        size=2**32 - 1,
    )
    assert len(build_riot_envelope(largest, KEY)) <= 640


def test_another_kind_of_key_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"RIOT verifies Ed25519 only, this key is P-256"):
        build_riot_envelope(RELEASE, generate(KeyKind.P256))


@pytest.mark.parametrize(
    ("text", "component"),
    [("ram:0", (b"ram", b"0")), ("/nvm0/a:b", (b"/nvm0/a:b",)), ("00", (b"00",))],
)
def test_components_are_written_as_operators_write_them(text: str, component: tuple[bytes, ...]) -> None:
    assert parse_component(text) == component

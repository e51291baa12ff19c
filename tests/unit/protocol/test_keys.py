"""Keys in and out of files, and which of them may sign and verify manifests."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519

from protocol import cbor
from protocol.cose.algorithms import ALGORITHMS, Algorithm, KeyKind
from protocol.cose.keys import Label, PrivateKey, PublicKey, from_cose_key, generate, load_private_key, load_public_keys
from protocol.errors import AuthenticityError, DecodeError, OtaError, PolicyError, UnsupportedError

P256 = generate(KeyKind.P256)
ED25519 = generate(KeyKind.ED25519)
KINDS = pytest.mark.parametrize("kind", list(KeyKind))
STRANGE = [
    (rsa.generate_private_key(65_537, 1_024), "RSA"),
    (ec.generate_private_key(ec.SECP384R1()), "secp384r1"),
    (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
    (ed448.Ed448PrivateKey.generate(), "Ed448"),
    (x25519.X25519PrivateKey.generate(), "X25519"),
    (dsa.generate_private_key(1_024), "DSA"),
]


def private_pem(raw: object) -> bytes:
    pem: bytes = raw.private_bytes(  # type: ignore[attr-defined]  # every private key has it, without a common class
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


def public_pem(raw: object) -> bytes:
    pem: bytes = raw.public_key().public_bytes(  # type: ignore[attr-defined]  # as above
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def fields(key: PublicKey) -> dict[int, cbor.Value]:
    found: dict[int, cbor.Value] = cbor.decode(key.to_cose_key())
    return found


# ---------------------------------------------------------------------------------------------- private keys


@KINDS
def test_a_private_key_comes_back_from_its_pem(kind: KeyKind) -> None:
    key = generate(kind)
    assert b"ENCRYPTED" not in key.to_pem()
    loaded = load_private_key(key.to_pem())
    assert loaded.kind is kind
    key.public.verify(loaded.algorithm, loaded.sign(b"message"), b"message")


@KINDS
def test_a_passphrase_protects_the_pem(kind: KeyKind) -> None:
    pem = generate(kind).to_pem(b"correct horse")
    assert b"ENCRYPTED" in pem
    assert load_private_key(pem, b"correct horse").kind is kind
    with pytest.raises(DecodeError, match="needs its passphrase"):
        load_private_key(pem)
    with pytest.raises(DecodeError, match="wrong passphrase"):
        load_private_key(pem, b"battery staple")


def test_a_passphrase_that_is_too_long_is_refused_before_anything_is_written() -> None:
    longest = b"x" * 1_023
    assert load_private_key(P256.to_pem(longest), longest).kind is KeyKind.P256
    with pytest.raises(PolicyError, match="a passphrase of 1024 bytes, the limit is 1023"):
        P256.to_pem(longest + b"x")


def test_a_passphrase_for_a_plain_key_is_pointed_out() -> None:
    with pytest.raises(DecodeError, match="not encrypted, but a passphrase was given"):
        load_private_key(P256.to_pem(), b"correct horse")


def test_a_sec1_key_is_taken_as_well() -> None:
    raw = ec.generate_private_key(ec.SECP256R1())
    pem = raw.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert load_private_key(pem).kind is KeyKind.P256


def test_a_public_key_where_a_private_one_is_due_is_pointed_out() -> None:
    with pytest.raises(DecodeError, match="this is a public key"):
        load_private_key(public_pem(P256.raw))


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_private_key_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="not a PKCS#8 PEM private key"):
        load_private_key(data)


@pytest.mark.parametrize(("raw", "name"), STRANGE)
def test_other_kinds_of_key_are_refused_by_name(raw: object, name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"a {name} key cannot sign manifests here; use P-256 .* or Ed25519"):
        load_private_key(private_pem(raw))
    with pytest.raises(UnsupportedError, match=rf"a {name} key verifies no manifests here"):
        load_public_keys(public_pem(raw))


# ----------------------------------------------------------------------------------------------- public keys


@KINDS
@pytest.mark.parametrize("kid", [None, b"", b"key-1"])
def test_a_public_key_comes_back_from_its_cose_key(kind: KeyKind, kid: bytes | None) -> None:
    key = replace(generate(kind), kid=kid)
    (loaded,) = load_public_keys(key.public.to_cose_key())
    assert (loaded.kind, loaded.kid) == (kind, kid)
    loaded.verify(key.algorithm, key.sign(b"message"), b"message")
    assert loaded.to_cose_key() == key.public.to_cose_key()


@KINDS
def test_public_keys_come_from_pem_of_either_half(kind: KeyKind) -> None:
    key = generate(kind)
    for pem in (key.to_pem(), public_pem(key.raw), b"\n" + public_pem(key.raw)):
        (loaded,) = load_public_keys(pem)
        assert loaded.to_cose_key() == key.public.to_cose_key()


def test_the_private_part_of_a_cose_key_is_left_alone() -> None:
    assert from_cose_key({**fields(P256.public), Label.D: bytes(32)}).to_cose_key() == P256.public.to_cose_key()


@pytest.mark.spec("RFC 9052 7")
def test_of_a_key_set_the_keys_that_cannot_be_used_are_left_out() -> None:
    strange = {1: 2, -1: 2, -2: bytes(48), -3: bytes(48)}
    broken = {1: 1, -1: 6, -2: b"short"}
    key_set = cbor.encode((strange, fields(P256.public), broken, 5, fields(ED25519.public)))
    assert [key.kind for key in load_public_keys(key_set)] == [KeyKind.P256, KeyKind.ED25519]
    with pytest.raises(UnsupportedError, match="curve 2"):
        load_public_keys(cbor.encode((strange, broken)))
    with pytest.raises(DecodeError, match="empty COSE_KeySet"):
        load_public_keys(cbor.encode(()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({Label.X: b"short"}, "x .* 32 bytes"),
        ({Label.X: None}, "x .* 32 bytes"),
        ({Label.Y: True}, "y .* 32 bytes"),
        ({Label.Y: bytes(32)}, "no point of P-256"),
        ({Label.X: b"\xff" * 32}, "no point of P-256"),
        ({Label.KID: "text"}, "kid is not a byte string"),
        ({Label.CRV: 2}, "type 2, curve 2"),
        ({Label.KTY: 4}, "type 4, curve 1"),
        ({Label.KTY: "EC2"}, "type 'EC2'"),
        ({Label.CRV: True}, "curve True"),
        ({Label.CRV: ()}, r"curve \[\]"),
        ({Label.CRV: {}}, "curve {}"),
        ({Label.ALG: -29}, "for algorithm -29"),
        ({Label.ALG: Algorithm.ED25519}, "for algorithm -19"),
        ({Label.ALG: "ESP256"}, "for algorithm 'ESP256'"),
        ({Label.KEY_OPS: (1,)}, "leave out verify"),
        ({Label.KEY_OPS: 2}, "leave out verify"),
    ],
)
def test_a_cose_key_that_verifies_no_manifests_is_refused(changes: dict[int, cbor.Value], words: str) -> None:
    value = {label: item for label, item in {**fields(P256.public), **changes}.items() if item is not None}
    with pytest.raises(OtaError, match=words):
        load_public_keys(cbor.encode(value))


def test_a_cose_key_may_name_the_older_identifier_of_its_algorithm() -> None:
    for key, algorithm in ((P256, Algorithm.ES256), (ED25519, Algorithm.EDDSA)):
        assert from_cose_key({**fields(key.public), Label.ALG: algorithm, Label.KEY_OPS: (1, 2)}).kind is key.kind


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"words", b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----"]
)
def test_what_is_no_public_key_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        load_public_keys(data)


# ------------------------------------------------------------------------------------------------ algorithms


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_each_algorithm_goes_with_one_kind_of_key_and_no_other(algorithm: Algorithm) -> None:
    for key in (P256, ED25519):
        signature = key.sign(b"message")
        if ALGORITHMS[algorithm].kind is key.kind:
            key.public.verify(algorithm, signature, b"message")
        else:
            with pytest.raises(AuthenticityError, match="does not go with"):
                key.public.verify(algorithm, signature, b"message")


@pytest.mark.parametrize("key", [P256, ED25519], ids=["P-256", "Ed25519"])
def test_every_flipped_bit_of_a_signature_is_found(key: PrivateKey) -> None:
    signature = key.sign(b"message")
    assert len(signature) == 64
    for bit in range(0, 512, 7):
        changed = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(64, "big")
        with pytest.raises(AuthenticityError):
            key.public.verify(key.algorithm, changed, b"message")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_signatures_of_another_form_are_refused(signature: bytes) -> None:
    for key in (P256, ED25519):
        with pytest.raises(AuthenticityError):
            key.public.verify(key.algorithm, signature, b"message")


def test_padding_inside_an_ecdsa_signature_is_refused() -> None:
    signature = P256.sign(b"message")
    for padded in (signature[:32] + b"\x00" + signature[32:], b"\x00" + signature):
        with pytest.raises(AuthenticityError, match="has 64 bytes, this one 65"):
            P256.public.verify(P256.algorithm, padded, b"message")


@pytest.mark.spec("RFC 9053 2.1")
def test_an_ecdsa_signature_is_r_and_s_at_full_length() -> None:
    lengths = {len(P256.sign(bytes([number]))) for number in range(32)}
    assert lengths == {64}

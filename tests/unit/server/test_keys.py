"""Key files: made once, never overwritten, refused in one line when they are not what is needed."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from coap_server.errors import ConflictError, InputError
from coap_server.services.keys import generate_keys, load_signer, load_trust, read_passphrase
from protocol.cose.algorithms import Algorithm, KeyKind

BOTH = (KeyKind.P256, KeyKind.ED25519)


def test_pairs_fit_together(tmp_path: Path) -> None:
    for pair in generate_keys(tmp_path / "keys", BOTH):
        signer = load_signer(pair.private)
        (public,) = load_trust((pair.public,))
        public.verify(signer.algorithm, signer.sign(b"message"), b"message")
        assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
        assert pair.kind is signer.kind


def test_passphrase_is_needed_again(tmp_path: Path) -> None:
    (pair,) = generate_keys(tmp_path, (KeyKind.ED25519,), b"secret")

    assert load_signer(pair.private, b"secret").algorithm is Algorithm.ED25519
    with pytest.raises(InputError, match="needs its passphrase"):
        load_signer(pair.private)
    with pytest.raises(InputError, match="wrong passphrase"):
        load_signer(pair.private, b"other")


def test_existing_key_is_not_overwritten_and_nothing_is_added(tmp_path: Path) -> None:
    (tmp_path / "ed25519.pub").write_bytes(b"precious")

    with pytest.raises(ConflictError, match=r"ed25519\.pub exists"):
        generate_keys(tmp_path, BOTH)

    assert [path.name for path in tmp_path.iterdir()] == ["ed25519.pub"]


def test_failed_write_takes_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(Exception, match="No space left on device"):
        generate_keys(tmp_path, BOTH)

    assert len(synced) == 3
    assert list(tmp_path.iterdir()) == []


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_key_of_the_wrong_kind_is_refused_by_name(tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    cases = {
        "rsa.pem": (pem(rsa.generate_private_key(65_537, 2_048)), "RSA key cannot sign"),
        "p384.pem": (pem(ec.generate_private_key(ec.SECP384R1())), "secp384r1 key cannot sign"),
        "public.pem": (
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "this is a public key",
        ),
        "none.pem": (b"no key at all", "not a PKCS#8 PEM private key"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            load_signer(tmp_path / name)
        assert name in str(caught.value)


def test_trust_anchor_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pub").write_bytes(b"\x00")

    with pytest.raises(InputError, match=r"trust anchor .*x\.pub"):
        load_trust((tmp_path / "x.pub",))


def test_passphrase_comes_from_the_file_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "pass").write_bytes(b"first line\nsecond\n")
    (tmp_path / "empty").write_bytes(b"\n")

    assert read_passphrase(tmp_path / "pass", "variable") == b"first line"
    assert read_passphrase(None, "variable") == b"variable"
    assert read_passphrase(None, None) is None
    with pytest.raises(InputError, match="first line is empty"):
        read_passphrase(tmp_path / "empty", None)

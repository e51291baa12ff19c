"""Key files of an operator: made once, read at each publish. The private half stays in its file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coap_server.errors import ConflictError, InputError, StoreError
from coap_server.services.images import read_file
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import PrivateKey, PublicKey, generate, load_private_key, load_public_keys
from protocol.errors import OtaError

MAX_KEY_FILE: Final = 64 * 1024
NAMES: Final = {KeyKind.P256: "esp256", KeyKind.ED25519: "ed25519"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFiles:
    """A pair: ``private`` is PKCS#8 PEM with mode 0600, ``public`` a COSE_Key for devices to trust."""

    kind: KeyKind
    private: Path
    public: Path


def generate_keys(folder: Path, kinds: tuple[KeyKind, ...], passphrase: bytes | None = None) -> tuple[KeyFiles, ...]:
    """Make a key pair of each kind in ``folder``; all of them or none.

    Raises:
        ConflictError: a file of that name exists; keys are never overwritten.
        StoreError: the folder cannot be written.
    """
    pairs = tuple(
        KeyFiles(kind=kind, private=folder / f"{NAMES[kind]}.pem", public=folder / f"{NAMES[kind]}.pub")
        for kind in kinds
    )
    for path in (path for pair in pairs for path in (pair.private, pair.public)):
        if path.exists():
            raise ConflictError(f"{path} exists, and keys are not overwritten; choose another folder")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pair in pairs:
            key = generate(pair.kind)
            for path, content, mode in (
                (pair.private, key.to_pem(passphrase), 0o600),
                (pair.public, key.public.to_cose_key(), 0o644),
            ):
                _create(path, content, mode, written)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(
                f"{error.filename or folder}: {error.strerror}; check the folder and its rights"
            ) from error
        raise
    return pairs


def load_signer(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Return the private key in a PEM file.

    Raises:
        InputError: missing, not a private key, of a kind that signs no manifests, or the passphrase does not fit.
    """
    pem = read_file(path, "key", MAX_KEY_FILE)
    try:
        return load_private_key(pem, passphrase)
    except OtaError as error:
        words = str(error).removeprefix("key: ")
        raise InputError(
            f"key file {path}: {words}; give a private key as ota-server keys generate makes it (NAME.pem)"
        ) from error


def load_trust(paths: tuple[Path, ...]) -> tuple[PublicKey, ...]:
    """Return the public keys in COSE_Key, COSE_KeySet or PEM files.

    Raises:
        InputError: a file is missing or holds no public key that is in use here.
    """
    keys: list[PublicKey] = []
    for path in paths:
        data = read_file(path, "trust anchor", MAX_KEY_FILE)
        try:
            keys += load_public_keys(data)
        except OtaError as error:
            words = str(error).removeprefix("key: ")
            raise InputError(
                f"trust anchor {path}: {words}; give a public key as ota-server keys generate makes it (NAME.pub)"
            ) from error
    return tuple(keys)


def read_passphrase(file: Path | None, variable: str | None) -> bytes | None:
    """Return the passphrase: the first line of ``file``, else ``variable``, else None.

    Raises:
        InputError: the file is missing or its first line is empty.
    """
    if file is None:
        return variable.encode() if variable else None
    lines = read_file(file, "passphrase file", MAX_KEY_FILE).splitlines()
    if not lines or not lines[0]:
        raise InputError(f"passphrase file {file}: the first line is empty")
    return lines[0]


def _create(path: Path, content: bytes, mode: int, written: list[Path]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    written.append(path)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

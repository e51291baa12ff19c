"""Commands that work on files alone: ``keys generate``, ``manifest show``, ``manifest verify``."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from coap_server import terminal
from coap_server.errors import InputError
from coap_server.services.images import read_file
from coap_server.services.keys import KeyFiles, generate_keys, load_trust, read_passphrase
from protocol.cose.algorithms import SIGNING, KeyKind
from protocol.errors import OtaError
from protocol.suit.diagnostic import render_envelope
from protocol.suit.verification import check_envelope, is_authentic

ENVIRONMENT: Final = "OTA_KEY_PASSPHRASE"
MAX_ENVELOPE_FILE: Final = 8 * 1024 * 1024

keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign manifests.")
manifest_app = typer.Typer(no_args_is_help=True, help="Look into manifests.")

Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="First line: the passphrase; else OTA_KEY_PASSPHRASE."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class KeyChoice(StrEnum):
    """What ``--algorithm`` takes."""

    ESP256 = "esp256"
    ED25519 = "ed25519"
    BOTH = "both"


_KINDS: Final[dict[KeyChoice, tuple[KeyKind, ...]]] = {
    KeyChoice.ESP256: (KeyKind.P256,),
    KeyChoice.ED25519: (KeyKind.ED25519,),
    KeyChoice.BOTH: (KeyKind.P256, KeyKind.ED25519),
}


@keys_app.command("generate")
def keys_generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the key files; made where missing.")],
    algorithm: Annotated[KeyChoice, typer.Option("--algorithm", help="Which keys to make.")] = KeyChoice.BOTH,
    passphrase_file: Passphrase = None,
    as_json: AsJson = False,
) -> None:
    """Make signing keys: NAME.pem (private, PKCS#8, mode 0600) and NAME.pub (public, COSE_Key, for devices).

    With --passphrase-file, or OTA_KEY_PASSPHRASE in the environment, the private keys are encrypted.

    Example: ota-server keys generate keys --algorithm esp256
    """
    pairs = generate_keys(folder, _KINDS[algorithm], passphrase_from(passphrase_file))
    for pair in pairs:
        if not as_json:
            terminal.show_line(f"{SIGNING[pair.kind].name}: {pair.private} (private), {pair.public} (for devices)")
    if as_json:
        terminal.show_json([_key_json(pair) for pair in pairs])


@manifest_app.command("show")
def manifest_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A SUIT envelope.")], as_json: AsJson = False
) -> None:
    """Print an envelope as a tree with the names of the standard. Nothing is verified.

    Example: ota-server manifest show update.suit
    """
    data = read_file(file, "manifest", MAX_ENVELOPE_FILE)
    try:
        lines = list(render_envelope(data))
    except OtaError as error:
        raise InputError(f"manifest {file} is no SUIT envelope ({error}); give the file of one") from error
    if as_json:
        terminal.show_json([{"depth": line.depth, "text": line.text} for line in lines])
        return
    for line in lines:
        terminal.show_line("  " * line.depth + line.text)


@manifest_app.command("verify")
def manifest_verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A SUIT envelope.")],
    trust: Annotated[list[Path], typer.Option("--trust", metavar="KEY", help="A public key to trust; repeatable.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Also demand tag 107, and that everything in the manifest is understood.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what holds of an envelope; exit 0 only if a trusted key signed it and nothing was changed.

    Example: ota-server manifest verify update.suit --trust keys/esp256.pub
    """
    data = read_file(file, "manifest", MAX_ENVELOPE_FILE)
    checks = check_envelope(data, load_trust(tuple(trust)), allow_untagged=not strict)
    holds = is_authentic(checks) and (not strict or all(check.holds for check in checks))
    if as_json:
        listed: list[terminal.Json] = [
            {"name": check.name, "holds": check.holds, "detail": check.detail} for check in checks
        ]
        terminal.show_json({"authentic": is_authentic(checks), "accepted": holds, "checks": listed})
    else:
        for check in checks:
            terminal.show_line(f"{'holds' if check.holds else 'FAILS':5}  {check.name}: {check.detail}")
    if not holds:
        failed = next((check for check in checks if not check.holds), None)
        words = f"{failed.name}: {failed.detail}" if failed is not None else "no trusted key signed it"
        terminal.show_error(f"manifest {file} is not accepted: {words}; do not install it")
        raise typer.Exit(1)


def passphrase_from(file: Path | None) -> bytes | None:
    """Return the passphrase in ``file``, else in the environment; a command line would show it to other users."""
    return read_passphrase(file, os.environ.get(ENVIRONMENT))


def _key_json(pair: KeyFiles) -> terminal.Json:
    return {"algorithm": SIGNING[pair.kind].name, "private": str(pair.private), "public": str(pair.public)}

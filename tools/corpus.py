"""Fetch real firmware to try updates on: ``python -m tools.corpus demo --into DIR``.

The images are the MicroPython runtimes for the micro:bit that the package uflash carries as Intel HEX text (MIT). The
package manager brings each version by name and checks its digest; the text is then read out of the source without
running it. Each version is stored twice: as the HEX file (the text as published) and as the raw binary of its lowest
contiguous area, which is the flash. What lies above it, such as the chip's configuration words, is no firmware.

Where the registry cannot be reached, a synthetic set takes its place, and the output and ``corpus.json`` say so.
"""

import argparse
import ast
import contextlib
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from intelhex import IntelHex, IntelHexError

from tools.synthetic import make_images

PIP_LIMIT_S: Final = 55.0
ARCHIVE_LIMIT: Final = 8 * 1024 * 1024
SYNTHETIC_SEED: Final = 20260601
INDEX: Final = "corpus.json"
ROLES: Final = ("older", "old", "new")


class CorpusError(Exception):
    """The set cannot be made; the message is one line for a person."""


class Unreachable(CorpusError):
    """The package could not be fetched; a synthetic set can stand in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One published version and the digests (SHA-256, hexadecimal) that it must have."""

    role: str
    package: str
    version: str
    archive_sha256: str
    binary_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of the set, as ``corpus.json`` lists it; sizes in bytes, digests SHA-256 in hexadecimal."""

    role: str
    file: str
    binary: str
    package: str | None
    version: str
    licence: str
    size: int
    sha256_hex: str
    sha256_binary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A complete set: its entries from oldest to newest, and whether it was made up."""

    synthetic: bool
    origin: str
    files: tuple[Entry, ...]


DEMO: Final = (
    Source(
        role="older",
        package="uflash",
        version="1.1.3",
        archive_sha256="149400ff6be89e37c54b6d931141f57e82070abb43002f528446ceb0caf72d8a",
        binary_sha256="55332fcd95fdcc693c4e00a0017f218954da90e3ee227e52d43ea8341f8196a3",
    ),
    Source(
        role="old",
        package="uflash",
        version="1.2.0",
        archive_sha256="25c663c7a35e767d59e46ef3e37f87807650fd36ab9e6977deb20f715ba418e5",
        binary_sha256="e33be42029091ff9bd544d1ac18bc80d63cee47b9cb6204e2ff6251b14f4a82a",
    ),
    Source(
        role="new",
        package="uflash",
        version="1.2.4",
        archive_sha256="92f7f51e00e9f48cf818226e375017b103715511e27817c80943f747a5ebecd8",
        binary_sha256="6630ef657c55afb6c5a63d04458d7b7d3f12932509246cc2d98cda670696b323",
    ),
)


def find_hex(source: str) -> str:
    """Return the Intel HEX text that a Python module holds in a module-level constant.

    The module is parsed, never run.

    Raises:
        CorpusError: the text is not Python, or no constant holds Intel HEX.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise CorpusError(f"the module is not readable Python: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str) and text.lstrip().startswith(":"):
                return text.strip() + "\n"
    raise CorpusError("the module holds no Intel HEX constant; has the package changed?")


def read_archive(archive: Path, module: str) -> str:
    """Return the text of the top-level module ``module`` (without ``.py``) of a source archive.

    Nothing is unpacked to disk.

    Raises:
        CorpusError: the archive is damaged, lacks the module, or the module is over 8 MiB.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name.split("/")[1:] == [f"{module}.py"]:
                    if member.size > ARCHIVE_LIMIT:
                        raise CorpusError(f"{archive.name}: {member.name} has {member.size} bytes, more than 8 MiB")
                    stream = tar.extractfile(member)
                    return stream.read().decode() if stream else ""
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise CorpusError(f"{archive.name}: not a readable source archive: {error}") from error
    raise CorpusError(f"{archive.name}: no {module}.py in it; has the package changed?")


def flash_area(text: str) -> bytes:
    """Return the lowest contiguous area of an Intel HEX text as raw bytes.

    Raises:
        CorpusError: the text is not Intel HEX or holds no data.
    """
    try:
        image = IntelHex(io.StringIO(text))
    except IntelHexError as error:
        raise CorpusError(f"not Intel HEX: {error}") from error
    segments = image.segments()
    if not segments:
        raise CorpusError("the Intel HEX text holds no data")
    start, end = segments[0]
    return bytes(image.tobinstr(start=start, end=end - 1))


def download(source: Source, into: Path) -> Path:
    """Have the package manager bring one source archive into ``into`` and return its path.

    Raises:
        Unreachable: the registry did not answer, or not within 55 seconds.
        CorpusError: what came has another digest than the one known.
    """
    wanted = into / "requirements.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--timeout", "10", "--retries", "1", "--no-deps", "--no-binary", ":all:"]
    command += ["--dest", str(into), "--requirement", str(wanted)]
    name = f"{source.package} {source.version}"
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PIP_LIMIT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{name}: no answer within {PIP_LIMIT_S:.0f} s") from error
    if "DO NOT MATCH THE HASHES" in run.stderr:
        raise CorpusError(f"{name}: the archive has another SHA-256 than the one known; do not use it")
    archive = next(into.glob(f"{source.package}-{source.version}.tar.gz"), None)
    if run.returncode or archive is None:
        reasons = [line for line in run.stderr.splitlines() if line.startswith("ERROR:")] or ["ERROR: pip failed"]
        raise Unreachable(f"{name}: {reasons[-1].removeprefix('ERROR:').strip()}")
    return archive


def fetch(sources: Sequence[Source], into: Path) -> Corpus:
    """Write the real set into ``into`` and return it; versions already there are not fetched again.

    Raises:
        Unreachable: a version could not be fetched.
        CorpusError: a version is not what it should be.
    """
    old = load(into)
    known = {(entry.package, entry.version): entry for entry in old.files} if old else {}
    entries = []
    for source in sources:
        entry = known.get((source.package, source.version))
        if entry is None or entry.sha256_binary != source.binary_sha256:
            with tempfile.TemporaryDirectory() as folder:
                text = find_hex(read_archive(download(source, Path(folder)), source.package))
            binary = flash_area(text)
            if _sha256(binary) != source.binary_sha256:
                raise CorpusError(
                    f"{source.package} {source.version}: the image has SHA-256 {_sha256(binary)}, not the known"
                )
            name = f"microbit-{source.version}"
            entry = _write(into, name, text, binary, source.role, source.package, source.version, "MIT")
        entries.append(entry)
    origin = "MicroPython for the micro:bit, from the source of the package uflash"
    return Corpus(synthetic=False, origin=origin, files=tuple(entries))


def synthesise(into: Path) -> Corpus:
    """Write the synthetic set into ``into`` and return it: three versions, at least 200 KB each."""
    entries = []
    for number, binary in enumerate(make_images(SYNTHETIC_SEED, len(ROLES)), start=1):
        image = IntelHex()
        image.frombytes(binary)
        text = io.StringIO()
        image.write_hex_file(text)
        name = f"synthetic-{number}"
        entries.append(_write(into, name, text.getvalue(), binary, ROLES[number - 1], None, f"0.{number}.0", "MIT"))
    return Corpus(synthetic=True, origin=f"made up from seed {SYNTHETIC_SEED}", files=tuple(entries))


def load(into: Path) -> Corpus | None:
    """Return the set that stands in ``into`` if its index is readable and every file has its digest, else None."""
    try:
        raw: dict[str, Any] = json.loads((into / INDEX).read_text())
        files = tuple(Entry(**entry) for entry in raw["files"])
        for entry in files:
            for name, digest in ((entry.file, entry.sha256_hex), (entry.binary, entry.sha256_binary)):
                if Path(name).name != name or _sha256((into / name).read_bytes()) != digest:
                    return None
        return Corpus(synthetic=raw["synthetic"], origin=raw["origin"], files=files)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def provide(into: Path, *, offline: bool = False) -> tuple[Corpus, str]:
    """Make sure that ``into`` holds a whole set and return it with the reason why it is synthetic, if it is.

    Args:
        into: folder for the files and ``corpus.json``; made if missing.
        offline: ask no registry and make the synthetic set.

    Raises:
        CorpusError: what came is not what it should be, or the folder cannot be written.
    """
    reason = "as asked" if offline else ""
    try:
        into.mkdir(parents=True, exist_ok=True)
        old = load(into)
        corpus = None
        if not offline:
            try:
                corpus = fetch(DEMO, into)
            except Unreachable as error:
                reason = str(error)
        if corpus is None:
            corpus = old if old and old.synthetic else synthesise(into)
        for stale in _names(old) - _names(corpus):
            (into / stale).unlink(missing_ok=True)
        _replace(into / INDEX, json.dumps(asdict(corpus), indent=2).encode() + b"\n")
    except OSError as error:
        raise CorpusError(f"cannot write {error.filename or into}: {error.strerror}; choose another --into") from error
    return corpus, reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.corpus", description="Fetch firmware to try updates on.")
    parser.add_argument("set", choices=["demo"], help="which set: demo has three versions of one firmware")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--offline", action="store_true", help="ask no registry: make the synthetic set")
    parser.add_argument("--json", action="store_true", help="print corpus.json instead of words")
    options = parser.parse_args(arguments)
    try:
        corpus, reason = provide(options.into, offline=options.offline)
    except CorpusError as error:
        print(f"corpus: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(asdict(corpus), indent=2))
        return 0
    if corpus.synthetic:
        print(f"corpus: SYNTHETIC firmware, no real device runs it ({reason})")
    for entry in corpus.files:
        print(f"corpus: {options.into / entry.file}  {entry.role}, {entry.size:,} bytes, {entry.sha256_binary[:16]}")
    return 0


def _names(corpus: Corpus | None) -> set[str]:
    return {name for entry in corpus.files for name in (entry.file, entry.binary)} if corpus else set()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(
    into: Path, name: str, text: str, binary: bytes, role: str, package: str | None, version: str, licence: str
) -> Entry:
    _replace(into / f"{name}.hex", text.encode())
    _replace(into / f"{name}.bin", binary)
    return Entry(
        role=role,
        file=f"{name}.hex",
        binary=f"{name}.bin",
        package=package,
        version=version,
        licence=licence,
        size=len(binary),
        sha256_hex=_sha256(text.encode()),
        sha256_binary=_sha256(binary),
    )


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())

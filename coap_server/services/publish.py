"""Publishing: from a firmware file to a signed release that devices can fetch.

`prepare` reads and checks all that comes from outside and touches nothing. `publish` makes deltas, builds the envelope
and stores everything; the database comes last, and what was written before a failure is removed again.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from coap_server.errors import ConflictError, InputError, NotFoundError
from coap_server.services.deltas import Edge, check_bases, make_deltas, plan_edges
from coap_server.services.images import Image, read_image
from coap_server.services.keys import load_signer
from coap_server.store.base import Artifact, Delta, Kind, Model, NewRelease, Profile, Release, Store
from coap_server.store.blobs import BlobStore
from protocol.coap.numbers import payload_uri
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import PrivateKey
from protocol.errors import DecodeError
from protocol.messages import check_name
from protocol.suit import author, riot
from protocol.suit.envelope import manifest_digest, open_envelope
from protocol.suit.identifiers import DEFAULT_VENDOR_DOMAIN, RIOT_VENDOR_DOMAIN, class_id, vendor_id

MAX_PRECURSORS: Final = 10
MAX_ENVELOPE: Final = 8_000
"""What fits the envelope area of a device, 8 KiB with its header."""
MAX_SEQUENCE_NUMBER: Final = 2**63 - 1
CODEC: Final = author.DELTA_DECODER
DEFAULT_COMPONENT: Final = "/nvm0/SLOT0.txt"

_LOCK_WAIT_S: Final = 0.05
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_VENDORS: Final = {Profile.SUIT: DEFAULT_VENDOR_DOMAIN, Profile.RIOT: RIOT_VENDOR_DOMAIN}

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of it are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """What an operator asks for.

    Attributes:
        image: the firmware file; ``image_b`` the one linked for slot 1, where there are two.
        model: the kind of device; made where it is new.
        version: what people call the release.
        key: PEM file of the signing key, with its passphrase where it has one.
        vendor_domain: names the vendor identifier; by default the model's, or the profile's for a new model.
        sequence_number: the rollback counter; by default one more than the model's highest.
        slot_size: greatest image in bytes, 0 for no limit.
        bases: versions to make deltas from; by default the newest ``max_precursors``.
        with_deltas: False for processors that refuse custom commands.
        promote: whether everyone shall have it; else only devices it is assigned to.
        uri_base: ``coap://HOST[:PORT]`` in front of payload paths, for RIOT.
        component: name of RIOT's component.
    """

    image: Path
    model: str
    version: str
    key: Path
    passphrase: bytes | None = field(default=None, repr=False)
    image_b: Path | None = None
    profile: Profile = Profile.SUIT
    vendor_domain: str | None = None
    sequence_number: int | None = None
    slot_size: int = 0
    bases: tuple[str, ...] = ()
    max_precursors: int = MAX_PRECURSORS
    with_deltas: bool = True
    promote: bool = True
    description: str | None = None
    uri_base: str | None = None
    component: str = DEFAULT_COMPONENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request whose files were read and found good."""

    request: PublishRequest
    images: tuple[Image, ...]
    signer: PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDelta:
    """A delta beside its use: it is left out of the manifest where it is not smaller than the image."""

    delta: Delta
    base: Release
    slot: int | None
    used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What was published."""

    model: str
    release: Release
    deltas: tuple[MadeDelta, ...]
    images: tuple[Image, ...]


def prepare(request: PublishRequest) -> Draft:
    """Read and check everything that the request names; nothing is written.

    Raises:
        InputError: a name, number, file or key that cannot be used.
        PolicyError, UnsupportedError: RIOT cannot take it; the message names the limit.
    """
    try:
        check_name(request.model, "--model")
    except DecodeError as error:
        raise InputError(str(error)) from error
    if not _VERSION.fullmatch(request.version):
        raise InputError(f"--version {request.version!r}: 1 to 64 letters, digits or . _ + ~ - are expected")
    if request.vendor_domain is not None and not _DOMAIN.fullmatch(request.vendor_domain):
        raise InputError(f"--vendor-domain {request.vendor_domain!r} is not a domain name")
    if request.description is not None and not request.description.isprintable():
        raise InputError("--description holds characters that cannot be printed; plain text in one line is expected")
    if request.sequence_number is not None and not 0 < request.sequence_number <= MAX_SEQUENCE_NUMBER:
        raise InputError(f"--sequence {request.sequence_number}: 1 to {MAX_SEQUENCE_NUMBER} are expected")
    if request.max_precursors < 0:
        raise InputError(f"--max-precursors {request.max_precursors}: 0 or more are expected")
    _check_combination(request)
    signer = load_signer(request.key, request.passphrase)
    paths = (request.image,) if request.image_b is None else (request.image, request.image_b)
    images = tuple(read_image(path, request.slot_size) for path in paths)
    draft = Draft(request=request, images=images, signer=signer)
    if request.profile is Profile.RIOT:
        _check_riot(draft)
    return draft


def _check_combination(request: PublishRequest) -> None:
    """Refuse options that contradict each other, or that would be ignored."""
    if request.profile is Profile.RIOT and request.bases:
        raise InputError("--from does not go with --profile riot-09: RIOT takes no deltas; leave it out")
    if request.bases and not request.with_deltas:
        raise InputError("--from and --no-delta contradict each other; leave one out")
    if request.profile is not Profile.RIOT:
        if request.uri_base is not None:
            raise InputError("--uri-base is for --profile riot-09 only; leave it out, or add the profile")
        if request.component != DEFAULT_COMPONENT:
            raise InputError("--component is for --profile riot-09 only; leave it out, or add the profile")


async def publish(
    draft: Draft, store: Store, blobs: BlobStore, *, progress: Progress = lambda step, done, total: None
) -> PublishResult:
    """Store, sign and release what ``draft`` holds; all of it or nothing.

    Raises:
        ConflictError: version or sequence number are taken, or the model has another vendor.
        NotFoundError: a version to make a delta from does not exist.
        InputError: the envelope would not fit a device.
        StoreError: the data folder cannot be written.
    """
    # One publisher at a time: a second one could take the sequence number, or build on a file that is taken back.
    async with _alone(blobs.folder), _undo(blobs) as keep:
        model = await store.find_model(draft.request.model)
        earlier = await store.releases(model.id) if model is not None else ()
        sequence_number = _sequence_number(draft.request, earlier)
        for number, image in enumerate(draft.images):
            progress("storing", number, len(draft.images))
            await keep(image.data, Kind.IMAGE)
        bases = _choose_bases(draft.request, earlier)
        made = await _deltas(draft, bases, store, blobs, keep, progress)
        progress("signing", 0, 1)
        domain = _vendor_domain(draft.request, model)
        signed = _envelope(draft, domain, sequence_number, made)
        envelope = await keep(signed, Kind.ENVELOPE)
        new = NewRelease(
            version=draft.request.version,
            sequence_number=sequence_number,
            profile=draft.request.profile,
            image_digest=draft.images[0].digest,
            image_size=len(draft.images[0].data),
            image_b_digest=draft.images[1].digest if len(draft.images) == 2 else None,
            envelope_digest=envelope.digest,
            envelope_size=envelope.size,
            manifest_digest=manifest_digest(open_envelope(signed, allow_untagged=True)),
            promoted=draft.request.promote,
        )
        deltas = [entry.delta for entry in made if entry.used]
        release = await _finish(store.add_release(draft.request.model, domain, new, keep.artifacts, deltas))
    return PublishResult(model=draft.request.model, release=release, deltas=made, images=draft.images)


class _Keep:
    """Stores blobs and remembers which of them are new, so that a failure can take them back."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.artifacts: list[Artifact] = []
        self.new: list[bytes] = []

    async def __call__(self, data: bytes, kind: Kind) -> Artifact:
        # Noted before the write, so that a failure in it is taken back as well.
        digest = hashlib.sha256(data).digest()
        if not self._blobs.path(digest).exists():
            self.new.append(digest)
        stored = await _complete(asyncio.to_thread(self._blobs.put, data))
        artifact = Artifact(digest=stored.digest, size=stored.size, kind=kind)
        self.artifacts.append(artifact)
        return artifact


@contextlib.asynccontextmanager
async def _undo(blobs: BlobStore) -> AsyncIterator[_Keep]:
    keep = _Keep(blobs)
    try:
        yield keep
    except BaseException:
        for digest in keep.new:
            blobs.delete(digest)
        raise


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Return the outcome of ``work`` even when cancelled: files must not go once the database names them."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if task.cancelled():
            raise
        return task.result()


async def _complete(work: Coroutine[Any, Any, T]) -> T:
    """Wait for ``work`` even when cancelled, then be cancelled: what a thread still writes cannot be taken back."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


@contextlib.asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    # The lock is on the folder itself: no file to leave behind, and the system drops it when the process ends.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Asked again and again: a thread that waits in the system cannot be cancelled.
        while not _locked(descriptor):  # noqa: ASYNC110 - the other side is another process
            await asyncio.sleep(_LOCK_WAIT_S)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sequence_number(request: PublishRequest, earlier: Sequence[Release]) -> int:
    if any(release.version == request.version for release in earlier):
        raise ConflictError(
            f"version {request.version} of model {request.model} is published already; choose another --version"
        )
    highest = max((release.sequence_number for release in earlier), default=0)
    if highest >= MAX_SEQUENCE_NUMBER:
        raise ConflictError(
            f"model {request.model} has a release with the highest sequence number there is, {highest}: nothing can "
            "follow it; choose another --model"
        )
    if request.sequence_number is None:
        return highest + 1
    if request.sequence_number <= highest:
        raise ConflictError(
            f"--sequence {request.sequence_number} is not above {highest}, the highest of model {request.model}: "
            "devices would refuse it as a rollback"
        )
    return request.sequence_number


def _choose_bases(request: PublishRequest, earlier: Sequence[Release]) -> tuple[Release, ...]:
    if request.profile is Profile.RIOT or not request.with_deltas:
        return ()
    by_version = {release.version: release for release in earlier}
    if unknown := [version for version in request.bases if version not in by_version]:
        raise NotFoundError(
            f"--from {unknown[0]}: model {request.model} has no such version; it has {', '.join(by_version) or 'none'}"
        )
    if request.bases:
        chosen = [release for release in earlier if release.version in request.bases]
    else:
        chosen = list({release.images: release for release in reversed(earlier)}.values())
        chosen = sorted(chosen, key=lambda release: -release.sequence_number)[: request.max_precursors]
    return tuple(chosen)


async def _deltas(
    draft: Draft, bases: Sequence[Release], store: Store, blobs: BlobStore, keep: _Keep, progress: Progress
) -> tuple[MadeDelta, ...]:
    sizes = {image.digest: len(image.data) for image in draft.images}
    edges = plan_edges([image.digest for image in draft.images], bases)
    pairs = list(dict.fromkeys((edge.source, edge.target) for edge in edges))
    known: dict[tuple[bytes, bytes], Delta] = {}
    for source, target in pairs:
        delta = await store.find_delta(source, target, CODEC)
        if delta is not None and await asyncio.to_thread(blobs.is_whole, delta.digest):
            known[source, target] = delta
    missing = [pair for pair in pairs if pair not in known]
    progress("making deltas", 0, len(missing))
    await check_bases(blobs, bases, {source for source, _ in missing})
    patches = await make_deltas(
        CODEC,
        [(blobs.path(source), blobs.path(target)) for source, target in missing],
        lambda done: progress("making deltas", done, len(missing)),
    )
    for (source, target), patch in zip(missing, patches, strict=True):
        if len(patch) < sizes[target]:
            await keep(patch, Kind.DELTA)
        known[source, target] = Delta(
            from_image_digest=source,
            to_image_digest=target,
            codec=CODEC,
            digest=hashlib.sha256(patch).digest(),
            size=len(patch),
        )
    return tuple(_made(edge, known[edge.source, edge.target], bases, sizes[edge.target]) for edge in edges)


def _made(edge: Edge, delta: Delta, bases: Sequence[Release], size: int) -> MadeDelta:
    base = next(release for release in bases if edge.source in release.images)
    return MadeDelta(delta=delta, base=base, slot=edge.slot, used=delta.size < size)


def _vendor_domain(request: PublishRequest, model: Model | None) -> str:
    return request.vendor_domain or (model.vendor_domain if model is not None else _VENDORS[request.profile])


def _envelope(draft: Draft, domain: str, sequence_number: int, made: Sequence[MadeDelta]) -> bytes:
    request = draft.request
    if request.profile is Profile.RIOT:
        return _riot_envelope(draft, domain, sequence_number)
    vendor = vendor_id(domain)
    slots: tuple[int | None, ...] = (None,) if len(draft.images) == 1 else author.SLOTS
    envelope = author.build_envelope(
        author.Release(
            sequence_number=sequence_number,
            vendor_id=vendor,
            class_id=class_id(vendor, request.model),
            targets=tuple(
                author.Target(digest=image.digest, size=len(image.data), uri=payload_uri(image.digest), slot=slot)
                for slot, image in zip(slots, draft.images, strict=True)
            ),
            precursors=tuple(
                author.Precursor(
                    digest=entry.delta.from_image_digest,
                    delta_digest=entry.delta.digest,
                    delta_size=entry.delta.size,
                    delta_uri=payload_uri(entry.delta.digest),
                    slot=entry.slot,
                )
                for entry in made
                if entry.used
            ),
            text=author.Text(
                description=request.description or f"{request.model} {request.version}",
                model_name=request.model,
                component_version=request.version,
            ),
            decoder=CODEC,
        ),
        draft.signer,
    )
    if len(envelope) > MAX_ENVELOPE:
        raise InputError(
            f"the manifest has {len(envelope)} bytes, a device keeps {MAX_ENVELOPE}: "
            "lower --max-precursors or shorten --description"
        )
    return envelope


def _check_riot(draft: Draft) -> None:
    """Refuse at once what RIOT cannot take; the envelope built here is thrown away."""
    request = draft.request
    if request.image_b is not None:
        raise InputError("--image-b does not go with --profile riot-09: its manifest has exactly one component")
    if draft.signer.kind is not KeyKind.ED25519:
        raise InputError(
            f"key file {request.key} is {draft.signer.kind.value}, --profile riot-09 needs Ed25519: "
            "make one with ota-server keys generate DIR --algorithm ed25519"
        )
    if request.uri_base is None:
        raise InputError("--profile riot-09 needs --uri-base coap://HOST[:PORT]: RIOT takes absolute URIs only")
    if not _is_uri_base(request.uri_base):
        raise InputError(f"--uri-base {request.uri_base!r}: coap://HOST[:PORT] is expected")
    _riot_envelope(draft, request.vendor_domain or RIOT_VENDOR_DOMAIN, request.sequence_number or 1)


def _is_uri_base(text: str) -> bool:
    """Return whether a path can be put behind it: scheme, host, perhaps a port, and nothing else."""
    if not text.isascii() or not text.isprintable() or any(char in text for char in " ?#@\\%"):
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme == "coap" and bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        return False


def _riot_envelope(draft: Draft, domain: str, sequence_number: int) -> bytes:
    vendor = vendor_id(domain)
    (image,) = draft.images
    return riot.build_riot_envelope(
        riot.RiotRelease(
            sequence_number=sequence_number,
            vendor_id=vendor,
            class_id=class_id(vendor, draft.request.model),
            component=riot.parse_component(draft.request.component),
            digest=image.digest,
            size=len(image.data),
            uri=f"{(draft.request.uri_base or '').rstrip('/')}{payload_uri(image.digest)}",
        ),
        draft.signer,
    )

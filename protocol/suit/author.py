"""Manifests to publish: one signed manifest for every version a device may start from.

The wire format is described in ``docs/protocol.md``: components ``fw`` (the slot the manifest governs), ``run`` (what
runs now) and ``delta`` (staging); a try-each that ends at once where the image stands already, else takes a delta made
from the running image where the device can decode it, else the full image.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final

from protocol import cbor
from protocol.cose.keys import Signer
from protocol.errors import PolicyError
from protocol.suit.codec import encode_envelope
from protocol.suit.envelope import member_digest
from protocol.suit.identifiers import class_id
from protocol.suit.labels import MANIFEST_VERSION, Command, ComponentTextKey, ManifestKey, Parameter, Policy, TextKey
from protocol.suit.manifest import Common, Manifest
from protocol.suit.model import ComponentId, Sequence, sha256_digest
from protocol.suit.sequences import sequence

FW: Final[ComponentId] = (b"fw",)
RUN: Final[ComponentId] = (b"run",)
DELTA: Final[ComponentId] = (b"delta",)
FW_INDEX: Final = 0
RUN_INDEX: Final = 1
DELTA_INDEX: Final = 2
DELTA_DECODER: Final = "delta/1"
SLOTS: Final = (0, 1)

Commands = SequenceOf[tuple[Command, object]]
_INDEX: Final = Command.DIRECTIVE_SET_COMPONENT_INDEX
_SET: Final = Command.DIRECTIVE_OVERRIDE_PARAMETERS
_MATCH: Final = Command.CONDITION_IMAGE_MATCH
_FETCH: Final = Command.DIRECTIVE_FETCH
_TRY: Final = Command.DIRECTIVE_TRY_EACH
_SLOT: Final = Command.CONDITION_COMPONENT_SLOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An image to install. ``slot`` is the slot it is linked for, None where it runs in either."""

    digest: bytes
    size: int
    uri: str
    slot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Precursor:
    """A delta: from the image with ``digest`` to the target, or to the target of ``slot`` where there are two."""

    digest: bytes
    delta_digest: bytes
    delta_size: int
    delta_uri: str
    size: int | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What people read of a release; it travels in the severable text member."""

    language: str = "en"
    description: str | None = None
    update_description: str | None = None
    model_name: str | None = None
    component_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """All that a manifest says. One target, or two with slots 0 and 1; precursors newest first."""

    sequence_number: int
    vendor_id: bytes
    class_id: bytes
    targets: tuple[Target, ...]
    precursors: tuple[Precursor, ...] = ()
    text: Text | None = None
    decoder: str = DELTA_DECODER


def build_envelope(release: Release, *signers: Signer) -> bytes:
    """Return the signed envelope of ``release``.

    Raises:
        PolicyError: two targets that are not for slots 0 and 1, a precursor that leaves its target open, or no signer.
    """
    if not signers:
        raise PolicyError("a manifest needs a signing key")
    manifest, members = build_manifest(release)
    return encode_envelope(manifest, signers, members)


def build_manifest(release: Release) -> tuple[Manifest, dict[ManifestKey, bytes]]:
    """Return the manifest and the severed members that go beside it."""
    _check_targets(release.targets)
    _check_precursors(release)
    install = _install(release)
    members = {ManifestKey.INSTALL: install.raw}
    text = None
    if release.text is not None:
        members[ManifestKey.TEXT] = _text(release.text)
        text = member_digest(members[ManifestKey.TEXT])
    manifest = Manifest(
        version=MANIFEST_VERSION,
        sequence_number=release.sequence_number,
        common=Common(
            components=(FW, RUN, DELTA) if release.precursors else (FW,),
            shared_sequence=sequence(*_shared(release)),
        ),
        validate=sequence((_INDEX, FW_INDEX), (_MATCH, Policy.ALL)),
        install=member_digest(install.raw),
        text=text,
    )
    return manifest, members


def _check_targets(targets: tuple[Target, ...]) -> None:
    slots = [target.slot for target in targets]
    if slots not in ([None], [0, 1]):
        raise PolicyError(f"targets for slots {slots}; one target for any slot or two for slots 0 and 1 are due")


def _check_precursors(release: Release) -> None:
    # A delta leads to one image: with two targets, one that does not name its slot would be taken for either.
    for precursor in release.precursors:
        if len(release.targets) > 1 and precursor.slot not in SLOTS:
            raise PolicyError(
                f"precursor {precursor.digest.hex()[:16]} for slot {precursor.slot}: "
                "with two targets each precursor names slot 0 or 1"
            )


def _shared(release: Release) -> Commands:
    identity: dict[int, object] = {
        Parameter.VENDOR_IDENTIFIER: release.vendor_id,
        Parameter.CLASS_IDENTIFIER: release.class_id,
    }
    single = release.targets[0] if len(release.targets) == 1 else None
    if single is not None:
        identity |= _image(single)
    branches = tuple(
        sequence(
            (_INDEX, FW_INDEX),
            (_SET, {Parameter.COMPONENT_SLOT: slot}),
            (_SLOT, Policy.NONE),
            *(() if single is not None else ((_SET, _image(release.targets[slot])),)),
        )
        for slot in SLOTS
    )
    return (
        (_INDEX, FW_INDEX),
        (_SET, identity),
        (Command.CONDITION_VENDOR_IDENTIFIER, Policy.ALL),
        (Command.CONDITION_CLASS_IDENTIFIER, Policy.ALL),
        (_TRY, branches),
    )


def _image(target: Target) -> dict[int, object]:
    return {Parameter.IMAGE_DIGEST: sha256_digest(target.digest), Parameter.IMAGE_SIZE: target.size}


def _install(release: Release) -> Sequence:
    done = sequence((_INDEX, FW_INDEX), (_MATCH, Policy.NONE))
    branches = [done, _full(release.targets)]
    if release.precursors:
        branches.insert(1, _via_delta(release))
    return sequence((_INDEX, FW_INDEX), (_TRY, tuple(branches)))


def _via_delta(release: Release) -> Sequence:
    decoder = class_id(release.vendor_id, release.decoder)
    return sequence(
        (_INDEX, DELTA_INDEX),
        (_SET, {Parameter.CLASS_IDENTIFIER: decoder}),
        (Command.CONDITION_CLASS_IDENTIFIER, Policy.NONE),
        (_TRY, (*(_pick(precursor) for precursor in release.precursors), None)),
        (_INDEX, RUN_INDEX),
        (_MATCH, Policy.NONE),
        (_INDEX, DELTA_INDEX),
        (_FETCH, Policy.RECORD_ON_FAILURE),
        (_MATCH, Policy.RECORD_ON_FAILURE),
        (_INDEX, FW_INDEX),
        (_SET, {Parameter.SOURCE_COMPONENT: DELTA_INDEX}),
        (Command.DIRECTIVE_APPLY_DELTA, RUN_INDEX),
        (_MATCH, Policy.RECORD_ON_FAILURE),
    )


def _pick(precursor: Precursor) -> Sequence:
    running: dict[int, object] = {Parameter.IMAGE_DIGEST: sha256_digest(precursor.digest)}
    if precursor.size is not None:
        running[Parameter.IMAGE_SIZE] = precursor.size
    delta: dict[int, object] = {
        Parameter.IMAGE_DIGEST: sha256_digest(precursor.delta_digest),
        Parameter.IMAGE_SIZE: precursor.delta_size,
        Parameter.URI: precursor.delta_uri,
    }
    return sequence(
        *_in_slot(precursor.slot),
        (_INDEX, RUN_INDEX),
        (_SET, running),
        (_MATCH, Policy.NONE),
        (_INDEX, DELTA_INDEX),
        (_SET, delta),
    )


def _in_slot(slot: int | None) -> Commands:
    if slot is None:
        return ()
    return ((_INDEX, FW_INDEX), (_SET, {Parameter.COMPONENT_SLOT: slot}), (_SLOT, Policy.NONE))


def _full(targets: tuple[Target, ...]) -> Sequence:
    if len(targets) == 1:
        source: Commands = ((_SET, {Parameter.URI: targets[0].uri}),)
    else:
        source = (
            (
                _TRY,
                tuple(sequence(*_in_slot(target.slot), (_SET, {Parameter.URI: target.uri})) for target in targets),
            ),
        )
    return sequence((_INDEX, FW_INDEX), *source, (_FETCH, Policy.RECORD_ON_FAILURE), (_MATCH, Policy.ALL))


def _text(text: Text) -> bytes:
    component = _present(
        {ComponentTextKey.MODEL_NAME: text.model_name, ComponentTextKey.COMPONENT_VERSION: text.component_version}
    )
    language: dict[cbor.Value, cbor.Value] = _present(
        {TextKey.MANIFEST_DESCRIPTION: text.description, TextKey.UPDATE_DESCRIPTION: text.update_description}
    )
    if component:
        language[FW] = component
    return cbor.encode({text.language: language})


def _present(fields: dict[int, str | None]) -> dict[cbor.Value, cbor.Value]:
    return {int(label): value for label, value in fields.items() if value is not None}

"""SUIT_Manifest and SUIT_Common as tables: one line a member."""

from dataclasses import dataclass
from typing import Annotated

from protocol import cbor
from protocol.schema import Format, Range, expect, key
from protocol.suit.model import ComponentId, Digest, Sequence, component_id_from_value, digest_from_value
from protocol.suit.sequences import decode_sequence


@dataclass(frozen=True, slots=True)
class Opaque:
    """A member whose content is not looked into: its CBOR value as it stands."""

    value: cbor.Value


OpaqueField = Annotated[Opaque, Format(encode=lambda item: item.value, decode=lambda value, path: Opaque(value))]
ComponentIdField = Annotated[ComponentId, Format(encode=lambda item: item, decode=component_id_from_value)]


def _sequence_from_value(value: cbor.Value, path: str) -> Sequence:
    return decode_sequence(expect(value, bytes, path), path)


def _severable_from_value(value: cbor.Value, path: str) -> Sequence | Digest:
    if isinstance(value, tuple):
        return digest_from_value(value, path)
    return _sequence_from_value(value, path)


def _severable_to_value(item: Sequence | Digest) -> cbor.Value:
    return item.to_value() if isinstance(item, Digest) else item.raw


def _text_from_value(value: cbor.Value, path: str) -> bytes | Digest:
    return digest_from_value(value, path) if isinstance(value, tuple) else expect(value, bytes, path)


def _text_to_value(item: bytes | Digest) -> cbor.Value:
    return item.to_value() if isinstance(item, Digest) else item


SequenceField = Annotated[Sequence, Format(encode=lambda item: item.raw, decode=_sequence_from_value)]
SeverableSequence = Annotated[Sequence | Digest, Format(encode=_severable_to_value, decode=_severable_from_value)]
SeverableBytes = Annotated[bytes | Digest, Format(encode=_text_to_value, decode=_text_from_value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """SUIT_Common: what all sequences of the manifest share."""

    dependencies: OpaqueField | None = key(1, optional=True)
    components: tuple[ComponentIdField, ...] = key(2)
    shared_sequence: SequenceField | None = key(4, optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """SUIT_Manifest. A severable member is its sequence, or the digest of what stands in the envelope."""

    version: int = key(1)
    sequence_number: Annotated[int, Range(0, 2**64 - 1)] = key(2)
    common: Common = key(3, wrapped=True)
    reference_uri: str | None = key(4, optional=True)
    component_id: ComponentIdField | None = key(5, optional=True)
    set_version: bytes | None = key(6, optional=True)
    validate: SequenceField | None = key(7, optional=True)
    load: SequenceField | None = key(8, optional=True)
    invoke: SequenceField | None = key(9, optional=True)
    coswid: SeverableBytes | None = key(14, optional=True)
    dependency_resolution: SeverableSequence | None = key(15, optional=True)
    payload_fetch: SeverableSequence | None = key(16, optional=True)
    candidate_verification: SeverableSequence | None = key(18, optional=True)
    install: SeverableSequence | None = key(20, optional=True)
    text: SeverableBytes | None = key(23, optional=True)
    uninstall: SequenceField | None = key(24, optional=True)

"""What holds of an envelope, check by check: for people and pipelines that want the reasons, not only the verdict."""

from dataclasses import dataclass

from protocol.errors import AuthenticityError, OtaError
from protocol.suit.authentication import Authentic, TrustAnchors, check_block, check_digest, read_wrapper
from protocol.suit.codec import decode_manifest
from protocol.suit.envelope import open_envelope
from protocol.suit.labels import EnvelopeKey, spoken
from protocol.suit.model import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. ``authenticity`` marks what the verdict rests on."""

    name: str
    holds: bool
    detail: str
    authenticity: bool = True


def check_envelope(data: bytes, trust: TrustAnchors, *, allow_untagged: bool = False) -> tuple[Check, ...]:
    """Return the checks in the order in which they were made; the list ends where going on makes no sense.

    ``is_authentic`` draws the verdict.
    """
    try:
        envelope = open_envelope(data, allow_untagged=allow_untagged)
        signed, digest, blocks = read_wrapper(envelope)
    except OtaError as error:
        return (Check(name="envelope", holds=False, detail=str(error)),)
    checks = [Check(name="envelope", holds=True, detail=f"{len(data)} bytes, {len(blocks)} authentication blocks")]
    try:
        check_digest(envelope, digest)
    except OtaError as error:
        return (*checks, Check(name="manifest digest", holds=False, detail=str(error)))
    checks.append(Check(name="manifest digest", holds=True, detail=f"{digest.algorithm.name} {digest.value.hex()}"))
    authentic: Authentic | None = None
    failures = []
    for number, block in enumerate(blocks, 1):
        try:
            key, algorithm = check_block(block, signed, trust, f"block {number}")
        except OtaError as error:
            failures.append(str(error))
            continue
        authentic = authentic or Authentic(envelope=envelope, digest=digest, key=key, algorithm=algorithm)
        checks.append(
            Check(name=f"signature {number}", holds=True, detail=f"{algorithm.name} by a trusted {key.kind.value} key")
        )
    if authentic is None:
        detail = "; ".join(failures) if failures else "unsigned: there is no authentication block"
        return (*checks, Check(name="signature", holds=False, detail=detail))
    return (*checks, *_check_content(authentic))


def is_authentic(checks: tuple[Check, ...]) -> bool:
    """Whether every check holds that authenticity rests on: wrapper, digest, a trusted signature, severed members."""
    return all(check.holds for check in checks if check.authenticity) and any(
        check.name.startswith("signature") for check in checks
    )


def _check_content(authentic: Authentic) -> list[Check]:
    checks = []
    try:
        decoded = decode_manifest(authentic)
    except OtaError as error:
        # A changed severed member is a matter of authenticity; a manifest of another revision is not.
        return [
            Check(name="manifest", holds=False, detail=str(error), authenticity=isinstance(error, AuthenticityError)),
        ]
    manifest = decoded.manifest
    checks.append(Check(name="manifest", holds=True, detail=f"sequence number {manifest.sequence_number}"))
    for label in EnvelopeKey:
        value = getattr(manifest, label.name.lower(), None)
        if isinstance(value, Digest):
            present = label in authentic.envelope.members
            detail = "present and as signed" if present else "severed, not in this envelope"
            checks.append(Check(name=spoken(label), holds=True, detail=detail))
    return checks

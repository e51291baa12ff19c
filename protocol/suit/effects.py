"""What a command asks of a platform.

The processor yields one of these and is sent the outcome: for a ``Match...`` effect whether it matches, for every
other effect None when it is done. A platform that cannot do it throws an `protocol.errors.OtaError` into the processor.
Every effect is idempotent: after a power cut the whole sequence runs again.
"""

from dataclasses import dataclass

from protocol.suit.labels import Parameter
from protocol.suit.model import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchIdentifier:
    """Is ``value`` the component's identifier of this kind (vendor, class or device)?"""

    component: int
    kind: Parameter
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchImage:
    """Do the component's first ``size`` bytes (all of it where None) have this digest?"""

    component: int
    digest: Digest
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchSlot:
    """Is the component in this slot?"""

    component: int
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Bring the representation at ``uri`` into the component; ``digest`` and ``size`` are what was signed for it."""

    component: int
    uri: str
    digest: Digest | None
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Copy component ``source`` into the component."""

    component: int
    source: int
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyDelta:
    """Rebuild the component from ``precursor`` by the patch in ``patch``.

    Digests and sizes of all three are the signed ones; a platform verifies patch and precursor again immediately
    before it decodes, and writes no more than ``size`` bytes. ``decoder`` is the class identifier of the patch format.
    """

    component: int
    patch: int
    precursor: int
    digest: Digest
    size: int
    patch_digest: Digest
    patch_size: int
    precursor_digest: Digest
    precursor_size: int | None
    decoder: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoke:
    """Start the component's code with these arguments."""

    component: int
    arguments: bytes | None


Effect = MatchIdentifier | MatchImage | MatchSlot | Fetch | Copy | ApplyDelta | Invoke
Outcome = bool | None

"""The errors both ends share: what broke, what a peer may be told, whether trying again can help.

Every error carries three facts beside its message:

* ``coap_code``: the response code a server sends for it (RFC 7252 section 12.1.2), as the byte on the wire;
* ``retryable``: whether the same step can succeed later without anyone changing the input;
* ``reason``: the SUIT report reason (``suit-report`` draft) that a device reports for it.

An asyncio boundary catches `OtaError` and decides by ``retryable``; anything else is a bug and must surface.
"""

from typing import ClassVar, Final

REASON_OK: Final = 0
REASON_CBOR_PARSE: Final = 1
REASON_COSE_UNSUPPORTED: Final = 2
REASON_ALGORITHM_UNSUPPORTED: Final = 3
REASON_UNAUTHORISED: Final = 4
REASON_COMMAND_UNSUPPORTED: Final = 5
REASON_COMPONENT_UNSUPPORTED: Final = 6
REASON_COMPONENT_UNAUTHORISED: Final = 7
REASON_PARAMETER_UNSUPPORTED: Final = 8
REASON_SEVERING_UNSUPPORTED: Final = 9
REASON_CONDITION_FAILED: Final = 10
REASON_OPERATION_FAILED: Final = 11

BAD_REQUEST: Final = 0x80
FORBIDDEN: Final = 0x83
NOT_FOUND: Final = 0x84
CONFLICT: Final = 0x89
INTERNAL_SERVER_ERROR: Final = 0xA0
SERVICE_UNAVAILABLE: Final = 0xA3


class OtaError(Exception):
    """Root of every error this project raises on purpose."""

    coap_code: ClassVar[int] = INTERNAL_SERVER_ERROR
    retryable: ClassVar[bool] = False
    reason: int = REASON_OPERATION_FAILED

    def __init__(self, message: str, *, reason: int | None = None) -> None:
        """Keep ``message`` and, where the class alone does not tell it, the SUIT report reason."""
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class ProtocolError(OtaError):
    """The peer or the input broke a rule of the protocol."""

    coap_code = BAD_REQUEST


class DecodeError(ProtocolError):
    """Bytes that are not what the format says; ``path`` names the place, e.g. ``envelope.manifest.common[1]``."""

    reason = REASON_CBOR_PARSE

    def __init__(self, message: str, *, path: str = "", reason: int | None = None) -> None:
        """Put ``path`` in front of ``message`` so that one line tells where and what."""
        super().__init__(f"{path}: {message}" if path else message, reason=reason)
        self.path = path


class AuthenticityError(ProtocolError):
    """A signature, MAC or digest does not hold. Never retried; the peer learns no more than the code."""

    coap_code = FORBIDDEN
    reason = REASON_UNAUTHORISED


class PolicyError(ProtocolError):
    """Authentic, but not for us or not now: rollback, wrong vendor or class, too large for the slot."""

    coap_code = FORBIDDEN
    reason = REASON_CONDITION_FAILED


class UnsupportedError(ProtocolError):
    """A command, parameter, algorithm or critical option that this implementation does not know."""

    reason = REASON_COMMAND_UNSUPPORTED


class OperationError(ProtocolError):
    """A directive was tried and failed; it ends the procedure even inside a try-each."""


class TransferError(OtaError):
    """A transfer over the link did not come to its end."""


class TransferTimeout(TransferError):
    """No answer, or no new block, within the time allowed. What was received is kept."""

    retryable = True


class RepresentationChanged(TransferError):
    """The representation behind the URI became another one while it was fetched (another ETag)."""

    retryable = True


class SizeExceeded(TransferError):
    """The peer sends more bytes, or announces more, than were signed or than there is room for."""


class BlockMismatch(TransferError):
    """A block with a number, size or length that does not belong to the transfer."""


class RequestRefused(TransferError):
    """The server answered with an error code; ``code`` is its byte, e.g. 0x84 for 4.04."""

    def __init__(self, message: str, *, code: int) -> None:
        """Keep the response code: 4.xx is definite, 5.xx may pass."""
        super().__init__(message)
        self.code = code

"""What can go wrong on the server. A view answers with ``coap_code`` and the message as its diagnostic payload."""

from protocol.errors import BAD_REQUEST, CONFLICT, NOT_FOUND, OtaError


class ServerError(OtaError):
    """Root of the errors that the server's own parts raise."""


class StoreError(ServerError):
    """The database or the artifact folder cannot be used: damaged, foreign, full, locked, or not there."""


class ConflictError(ServerError):
    """What is asked for clashes with what stands: a version published twice, a sequence number that does not rise."""

    coap_code = CONFLICT


class InputError(ServerError):
    """An argument, file or message that cannot be used; the message says what would be right."""

    coap_code = BAD_REQUEST


class NotFoundError(InputError):
    """A model, version, device or payload that the server does not have."""

    coap_code = NOT_FOUND

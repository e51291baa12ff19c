"""What all views share: errors become response codes with a diagnostic payload of one line."""

import logging
from typing import Final

from aiocoap import Code, Message
from aiocoap.error import RenderableError
from aiocoap.resource import ObservableResource, PathCapable, Resource

from coap_server.errors import InputError, NotFoundError
from protocol.coap.numbers import Option
from protocol.errors import OtaError

logger = logging.getLogger(__name__)

MAX_DIAGNOSTIC: Final = 256
UNDERSTOOD: Final = frozenset(
    {
        Option.URI_HOST,
        Option.URI_PORT,
        Option.URI_PATH,
        Option.URI_QUERY,
        Option.ACCEPT,
        Option.BLOCK1,
        Option.BLOCK2,
        Option.IF_MATCH,
        Option.IF_NONE_MATCH,
    }
)
"""Critical options that are understood; proxying is refused by aiocoap before a view is asked."""


class View(Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """A resource at one path. It answers each block by itself, without state (`coap_server.resources.slices`)."""

    async def needs_blockwise_assembly(self, request: Message) -> bool:
        """Return False: a block asked for first is a block like any other."""
        return False

    async def render(self, request: Message) -> Message:
        """Answer, or tell what was wrong."""
        try:
            refuse_unknown_options(request)
            return await super().render(request)
        except OtaError as error:
            logger.info("%s from %s: %s", request.code, request.remote.hostinfo, error)
            return diagnostic(error.coap_code, str(error))
        except RenderableError:
            raise
        except Exception:
            logger.exception("%s from %s failed", request.code, request.remote.hostinfo)
            return diagnostic(int(Code.INTERNAL_SERVER_ERROR), "the server failed; its log tells why")


class BadOptionError(InputError):
    """A critical option that this server does not understand."""

    coap_code = int(Code.BAD_OPTION)


def refuse_unknown_options(request: Message) -> None:
    """Raise `BadOptionError` for a critical option that is not understood (RFC 7252 section 5.4.1)."""
    for option in request.opt.option_list():
        if option.number.is_critical() and int(option.number) not in UNDERSTOOD:
            raise BadOptionError(f"option {int(option.number)} is critical and not understood here")


class PathView(View, PathCapable):  # type: ignore[misc]  # aiocoap publishes no types
    """A view of everything below one path; the rest of the path is the request's ``uri_path``."""


class ObservablePathView(PathView, ObservableResource):  # type: ignore[misc]  # aiocoap publishes no types
    """A view below one path whose resources can be observed (RFC 7641)."""


class PostView(View):
    """A view that takes bodies; a body may come in blocks (Block1)."""

    async def needs_blockwise_assembly(self, request: Message) -> bool:
        """Return True: only a whole body means anything."""
        return True


def diagnostic(code: int, text: str) -> Message:
    """Return an error with a diagnostic payload (RFC 7252 section 5.5.2)."""
    payload = text.encode()[:MAX_DIAGNOSTIC].decode(errors="ignore").encode()
    return Message(code=Code(code), payload=payload)


def one_segment(request: Message) -> str:
    """Return the one path segment that is left.

    Raises:
        NotFoundError: there are none or more.
    """
    path: tuple[str, ...] = request.opt.uri_path
    if len(path) != 1:
        raise NotFoundError(f"there is nothing at .../{'/'.join(path)[:64]}")
    return path[0]

"""What all views share: errors become response codes with a diagnostic payload of one line."""

import logging
from typing import Final

from aiocoap import Code, Message
from aiocoap.error import RenderableError
from aiocoap.pipe import Pipe
from aiocoap.resource import ObservableResource, PathCapable, Resource, Site

from coap_server.errors import InputError, NotFoundError, StoreError
from coap_server.text import printable
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
"""Critical options that are understood. The proxy's options are refused by `OtaSite`, whatever the path."""


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
        except StoreError as error:
            # Paths and what SQLite says are the operator's business, not the peer's.
            logger.error("%s from %s: %s", request.code, request.remote.hostinfo, printable(str(error)))
            return diagnostic(error.coap_code, "the server cannot read its data; its log tells why")
        except OtaError as error:
            logger.info("%s from %s: %s", request.code, request.remote.hostinfo, printable(str(error)))
            return diagnostic(error.coap_code, printable(str(error)))
        except RenderableError:
            raise
        except Exception:
            logger.exception("%s from %s failed", request.code, request.remote.hostinfo)
            return diagnostic(int(Code.INTERNAL_SERVER_ERROR), "the server failed; its log tells why")


class OtaSite(Site):  # type: ignore[misc]  # aiocoap publishes no types
    """All resources; a request that is for a proxy is refused, since this is none (RFC 7252 section 5.10.2)."""

    async def render_to_pipe(self, request: Pipe) -> None:
        """Answer, 5.05 if the request names another server."""
        options = request.request.opt
        if options.proxy_uri is not None or options.proxy_scheme is not None:
            refusal = diagnostic(int(Code.PROXYING_NOT_SUPPORTED), "this server is no proxy")
            request.add_response(refusal, is_last=True)
            return
        await super().render_to_pipe(request)


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

    async def render_to_pipe(self, request: Pipe) -> None:
        """Answer, 4.08 where a block is missing (RFC 7959 section 2.9.2)."""
        try:
            await super().render_to_pipe(request)
        except ValueError:
            # Of the assembly only: `render` lets nothing through.
            text = "the blocks of the body are not in order; begin again with block 0"
            request.add_response(diagnostic(int(Code.REQUEST_ENTITY_INCOMPLETE), text), is_last=True)


def diagnostic(code: int, text: str) -> Message:
    """Return an error with a diagnostic payload (RFC 7252 section 5.5.2)."""
    payload = text.encode(errors="backslashreplace")[:MAX_DIAGNOSTIC].decode(errors="ignore").encode()
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

"""``POST /checkin`` and ``POST /report``: what devices say of themselves, in CBOR."""

from aiocoap import Code, Message

from coap_server.errors import InputError
from coap_server.resources.slices import NotAcceptableError
from coap_server.resources.view import PostView
from coap_server.services.assign import Assigner
from coap_server.services.reports import Reporter
from protocol import messages
from protocol.coap.numbers import ContentFormat


class UnsupportedFormatError(InputError):
    """The body is not CBOR."""

    coap_code = int(Code.UNSUPPORTED_CONTENT_FORMAT)


class CheckinView(PostView):
    """Takes a `messages.Checkin`, answers 2.04 with a `messages.Assignment`."""

    rt = "coap-ota.checkin"
    ct = str(int(ContentFormat.CBOR))

    def __init__(self, assigner: Assigner) -> None:
        """Ask ``assigner``."""
        super().__init__()
        self._assigner = assigner

    async def render_post(self, request: Message) -> Message:
        """Answer a check-in."""
        accept = request.opt.accept
        if accept is not None and int(accept) != ContentFormat.CBOR:
            raise NotAcceptableError(
                f"Content-Format {int(accept)} is not available; {int(ContentFormat.CBOR)} (CBOR) is"
            )
        assignment = await self._assigner.check_in(messages.decode(messages.Checkin, _body(request)))
        payload = messages.encode(assignment)
        return Message(code=Code.CHANGED, payload=payload, content_format=int(ContentFormat.CBOR))


class ReportView(PostView):
    """Takes a `messages.StatusReport`, answers 2.04."""

    rt = "coap-ota.report"
    ct = str(int(ContentFormat.CBOR))

    def __init__(self, reporter: Reporter) -> None:
        """Tell ``reporter``."""
        super().__init__()
        self._reporter = reporter

    async def render_post(self, request: Message) -> Message:
        """Take a report."""
        await self._reporter.add(messages.decode(messages.StatusReport, _body(request)))
        return Message(code=Code.CHANGED)


def _body(request: Message) -> bytes:
    content_format = request.opt.content_format
    if content_format is not None and int(content_format) != ContentFormat.CBOR:
        raise UnsupportedFormatError(f"Content-Format {int(content_format)}: {int(ContentFormat.CBOR)} (CBOR) is due")
    return bytes(request.payload)

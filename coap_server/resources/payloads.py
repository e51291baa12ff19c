"""``/p/<first 16 hex digits of the SHA-256>``: images and deltas; what a path stands for never changes."""

from aiocoap import Message

from coap_server.resources.slices import Representation, slice_response
from coap_server.resources.view import PathView, one_segment
from coap_server.services.catalog import Catalog
from protocol.coap.numbers import ContentFormat


class PayloadsView(PathView):
    """All payloads."""

    def __init__(self, catalog: Catalog) -> None:
        """Serve the payloads of ``catalog``."""
        super().__init__()
        self._catalog = catalog

    async def render_get(self, request: Message) -> Message:
        """Answer with a block of a payload."""
        artifact = await self._catalog.payload(one_segment(request))
        return slice_response(
            request,
            Representation(
                digest=artifact.digest,
                size=artifact.size,
                formats=(int(ContentFormat.OCTET_STREAM),),
                read=lambda offset, size: self._catalog.read(artifact, offset, size),
            ),
        )

"""``/.well-known/core``: what there is, in link format (RFC 6690)."""

import hashlib

from aiocoap import Code, Message
from aiocoap.resource import Site, WKCResource
from aiocoap.util.linkformat import Link, LinkFormat

from coap_server.resources.manifests import FORMATS
from coap_server.resources.slices import Representation, slice_response
from coap_server.resources.view import View
from coap_server.services.catalog import Catalog
from protocol.coap.numbers import MODELS_PATH, ContentFormat, payload_uri


class DirectoryView(View):
    """Links to the resources of ``site``, to each model's manifest and to each payload.

    ``?rt=``, ``?ct=``, ``?href=`` and other attributes filter, with a ``*`` at the end of a value for a prefix.
    """

    ct = str(int(ContentFormat.LINK_FORMAT))

    def __init__(self, site: Site, catalog: Catalog) -> None:
        """List ``site`` and ``catalog``."""
        super().__init__()
        self._site = site
        self._catalog = catalog

    async def render_get(self, request: Message) -> Message:
        """Answer with a block of the list."""
        links = LinkFormat(await self._links())
        # aiocoap's own resource does the filtering; it answers 4.06 by itself.
        listed = await WKCResource(lambda: links, impl_info=None).render_get(request)
        if listed.code is Code.NOT_ACCEPTABLE:
            return listed
        data = bytes(listed.payload)
        response = slice_response(
            request,
            Representation(
                digest=hashlib.sha256(data).digest(),
                size=len(data),
                formats=(int(ContentFormat.LINK_FORMAT),),
                read=lambda offset, size: data[offset : offset + size],
            ),
        )
        response.opt.no_response = listed.opt.no_response
        return response

    async def _links(self) -> list[Link]:
        links: list[Link] = list(self._site.get_resources_as_linkheader().links)
        for manifest in await self._catalog.manifests():
            if manifest.release is not None:
                size = str(manifest.release.envelope_size)
                formats = " ".join(str(number) for number in FORMATS)
                href = f"/{MODELS_PATH}/{manifest.model}"
                links.append(Link(href, rt="coap-ota.manifest", ct=formats, sz=size, obs=None))
        for artifact in await self._catalog.payloads():
            octets = str(int(ContentFormat.OCTET_STREAM))
            links.append(
                Link(payload_uri(artifact.digest), rt=f"coap-ota.{artifact.kind}", ct=octets, sz=str(artifact.size))
            )
        return links

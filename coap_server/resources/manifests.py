"""Manifests: ``/m/<model>`` for everyone (GET and Observe), ``/d/<device>/m`` for one device."""

from typing import Any, Final

from aiocoap import Message

from coap_server.errors import NotFoundError
from coap_server.resources.slices import Representation, slice_response
from coap_server.resources.view import ObservablePathView, PathView, one_segment
from coap_server.services.catalog import Catalog
from coap_server.store.base import Artifact
from protocol.coap.numbers import ContentFormat

FORMATS: Final = (int(ContentFormat.SUIT_ENVELOPE), int(ContentFormat.CBOR), int(ContentFormat.OCTET_STREAM))


class ModelManifestsView(ObservablePathView):
    """``/m/<model>``: the newest release promoted to everyone."""

    def __init__(self, catalog: Catalog) -> None:
        """Serve the manifests of ``catalog``."""
        super().__init__()
        self._catalog = catalog
        self._observers: dict[str, set[Any]] = {}

    async def render_get(self, request: Message) -> Message:
        """Answer with a block of the manifest."""
        return _answer(request, self._catalog, await self._catalog.model_manifest(one_segment(request)))

    async def add_observation(self, request: Message, serverobservation: Any) -> None:
        """Take an observer; aiocoap drops it again if the answer is an error."""
        name = "/".join(request.opt.uri_path)
        observers = self._observers.setdefault(name, set())
        observers.add(serverobservation)

        def cancel() -> None:
            observers.discard(serverobservation)
            if not observers and self._observers.get(name) is observers:
                del self._observers[name]

        serverobservation.accept(cancel)

    def changed(self, model: str) -> None:
        """Notify the observers of a model's manifest."""
        for observer in tuple(self._observers.get(model, ())):
            observer.trigger()

    @property
    def observers(self) -> int:
        """How many observations there are."""
        return sum(len(observers) for observers in self._observers.values())


class DeviceManifestsView(PathView):
    """``/d/<device>/m``: what the device's last check-in offered."""

    def __init__(self, catalog: Catalog) -> None:
        """Serve the manifests of ``catalog``."""
        super().__init__()
        self._catalog = catalog

    async def render_get(self, request: Message) -> Message:
        """Answer with a block of the manifest."""
        path: tuple[str, ...] = request.opt.uri_path
        if len(path) != 2 or path[1] != "m":
            raise NotFoundError(f"there is nothing at /d/{'/'.join(path)[:64]}; a manifest is at /d/DEVICE/m")
        return _answer(request, self._catalog, await self._catalog.device_manifest(path[0]))


def _answer(request: Message, catalog: Catalog, artifact: Artifact) -> Message:
    return slice_response(
        request,
        Representation(
            digest=artifact.digest,
            size=artifact.size,
            formats=FORMATS,
            read=lambda offset, size: catalog.read(artifact, offset, size),
        ),
    )

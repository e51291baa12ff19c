"""Deltas: patches from one image to another, by the name of their format."""

from typing import Final

from protocol.delta.base import DeltaCodec
from protocol.delta.bsdiff import Bsdiff

CODECS: Final[dict[str, DeltaCodec]] = {codec.name: codec for codec in (Bsdiff(),)}
"""Formats by name. A device advertises a decoder as the class identifier uuid5(vendor, name)."""

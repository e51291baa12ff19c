"""Vendor and class identifiers as UUIDs of type 5 (RFC 9562 section 5.5), made from names people can read."""

import uuid
from typing import Final

DEFAULT_VENDOR_DOMAIN: Final = "coap-ota.example"
RIOT_VENDOR_DOMAIN: Final = "riot-os.org"


def vendor_id(domain: str) -> bytes:
    """Return the 16-byte vendor identifier of a domain name.

    >>> vendor_id("vendor.example").hex()
    'bcc169656f3a53389d83d8b565c63bc7'
    """
    return uuid.uuid5(uuid.NAMESPACE_DNS, domain).bytes


def class_id(vendor: bytes, name: str) -> bytes:
    """Return the 16-byte class identifier of a model, or of a decoder such as ``delta/1``, of a vendor."""
    return uuid.uuid5(uuid.UUID(bytes=vendor), name).bytes

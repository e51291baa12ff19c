"""The one place of `protocol` that knows asyncio, sockets and aiocoap: the glue both ends share."""

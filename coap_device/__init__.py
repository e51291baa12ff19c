"""The device: an agent that obeys signed manifests, on an emulated board that survives power cuts at any moment.

From the top: the agent (asyncio) drives the platform, the platform performs a manifest's effects on `coap_device.boot`
(slots, trailers, bootloader), and that sits on `coap_device.hardware`, a NOR flash kept in a file.
"""

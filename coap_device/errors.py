"""What can go wrong inside the device. A `PowerCut` is not among them: nothing handles it."""

from protocol.errors import OtaError


class DeviceError(OtaError):
    """Root of the errors that the device's own parts raise."""


class FlashError(DeviceError):
    """The flash was used against its rules, or its file is not a flash of this device."""


class SlotError(DeviceError):
    """A slot, envelope area or transfer was asked for something that its state or size does not allow."""


class BootError(DeviceError):
    """No slot holds an image that may run."""

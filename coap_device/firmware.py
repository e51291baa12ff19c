"""The emulated image: the only thing of it that matters here is how its self test ends."""

from enum import Enum


class SelfTest(Enum):
    """How the self test of a new image ends on its trial boot."""

    PASS = "pass"  # noqa: S105  a verdict, no password
    """It works: the image confirms itself."""
    FAIL = "fail"
    """It notices that it does not: the image asks for the old one."""
    HANG = "hang"
    """It notices nothing: the watchdog resets the device, again and again."""

"""The stages of an update on the device, and which may follow which."""

from enum import Enum
from typing import Final

from coap_device.errors import DeviceError


class Stage(Enum):
    """Where the device is. The names are those of the trace."""

    BOOTING = "booting"
    SELF_TEST = "self-test"
    RUNNING = "running"
    CHECKING_IN = "checking-in"
    FETCHING_MANIFEST = "fetching-manifest"
    VERIFYING = "verifying"
    INSTALLING = "installing"
    REBOOTING = "rebooting"
    REPORTING = "reporting"


FOLLOWS: Final[dict[Stage, frozenset[Stage]]] = {
    Stage.BOOTING: frozenset({Stage.SELF_TEST, Stage.RUNNING}),
    Stage.SELF_TEST: frozenset({Stage.RUNNING, Stage.REBOOTING}),
    Stage.RUNNING: frozenset({Stage.REPORTING, Stage.CHECKING_IN, Stage.FETCHING_MANIFEST, Stage.VERIFYING}),
    Stage.REPORTING: frozenset({Stage.RUNNING}),
    Stage.CHECKING_IN: frozenset({Stage.RUNNING}),
    Stage.FETCHING_MANIFEST: frozenset({Stage.VERIFYING, Stage.RUNNING, Stage.REPORTING}),
    Stage.VERIFYING: frozenset({Stage.INSTALLING, Stage.REPORTING, Stage.RUNNING}),
    Stage.INSTALLING: frozenset({Stage.REBOOTING, Stage.RUNNING, Stage.REPORTING}),
    Stage.REBOOTING: frozenset({Stage.BOOTING}),
}
"""The stages that may follow each; a power cut or a reset leads to BOOTING from anywhere."""


class Lifecycle:
    """Keeps the stage, and refuses a step that the table does not have."""

    def __init__(self) -> None:
        self.stage = Stage.BOOTING

    def go(self, stage: Stage) -> None:
        """Enter ``stage``.

        Raises:
            DeviceError: the table has no such step; that is a fault in the program.
        """
        if stage not in FOLLOWS[self.stage]:
            raise DeviceError(f"stage {stage.value} does not follow {self.stage.value}")
        self.stage = stage

    def power_on(self) -> None:
        """Begin again, wherever the power went."""
        self.stage = Stage.BOOTING

"""What happens to a device before it is shipped: its flash gets the first image, its identity and its trust anchors."""

import hashlib
from pathlib import Path

from coap_device.boot.provisioning import Provisioning, provision, read_provisioning
from coap_device.config import FLASH_FILE, ConfigError, DeviceConfig
from coap_device.hardware.flash import Backing, FileBacking, Flash
from coap_device.hardware.layout import Layout
from protocol.cose.keys import load_public_keys
from protocol.errors import OtaError
from protocol.suit.identifiers import class_id, vendor_id


def open_flash(config: DeviceConfig) -> FileBacking:
    """Return the device's flash file, provisioned: as it stands, or new from ``--image`` and ``--trust``.

    Raises:
        ConfigError: a setting that is missing, cannot be read, or is not the one the device was provisioned with.
        DeviceError: the flash file is damaged or in use, or the image does not fit.
    """
    path = config.state / FLASH_FILE
    if path.is_file():
        standing = FileBacking(path)
        try:
            found = read_provisioning(standing)
            if found is not None:
                _check_same(config, found, path)
                return standing
        except BaseException:
            standing.close()
            raise
        standing.close()
    image, record = _factory_data(config)
    size = Layout.of(config.geometry).size
    try:
        config.state.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--state {config.state}: {error.strerror or error}; choose a folder that can be made"
        ) from error
    backing = None
    try:
        backing = FileBacking(path, size)
        write_factory_data(backing, record, image)
    except BaseException:
        if backing is not None:
            backing.close()
        path.unlink(missing_ok=True)
        raise
    return backing


def write_factory_data(backing: Backing, record: Provisioning, image: bytes) -> None:
    """Provision the chip behind ``backing``."""
    flash = Flash(backing, record.geometry.sector_size, record.geometry.write_unit)
    provision(flash, record, (image,))


def factory_record(config: DeviceConfig, image: bytes, anchors: tuple[bytes, ...]) -> Provisioning:
    """Return what the factory writes for ``config``."""
    vendor = vendor_id(config.vendor_domain)
    return Provisioning(
        geometry=config.geometry,
        device_id=config.device_id,
        model=config.model,
        vendor_id=vendor,
        class_id=class_id(vendor, config.model),
        trust_anchors=anchors,
        image_digest=hashlib.sha256(image).digest(),
        image_size=len(image),
    )


def load_anchors(paths: tuple[Path, ...]) -> tuple[bytes, ...]:
    """Return the COSE_Keys in key files.

    Raises:
        ConfigError: a file that cannot be read, or is no key of a kind in use.
    """
    anchors: list[bytes] = []
    for path in paths:
        try:
            anchors += [key.to_cose_key() for key in load_public_keys(_read(path, "--trust"))]
        except OtaError as error:
            raise ConfigError(f"--trust {path}: {error}") from error
    return tuple(anchors)


def _factory_data(config: DeviceConfig) -> tuple[bytes, Provisioning]:
    if config.image is None:
        raise ConfigError(f"{config.state}: a new device needs its first image: --image FILE")
    if not config.trust:
        raise ConfigError(f"{config.state}: a new device needs a key to trust: --trust FILE")
    image = _read(config.image, "--image")
    if config.image.suffix.lower() == ".hex":
        raise ConfigError(f"--image {config.image}: Intel HEX is for ota-server publish; a device takes the raw binary")
    limit = config.geometry.slot_size
    if not image:
        raise ConfigError(f"--image {config.image}: is empty")
    if len(image) > limit:
        raise ConfigError(f"--image {config.image}: {len(image)} bytes, a slot takes {limit}; see --slot-size")
    return image, factory_record(config, image, load_anchors(config.trust))


def _check_same(config: DeviceConfig, found: Provisioning, path: Path) -> None:
    if config.model != found.model:
        raise ConfigError(f"{path}: this device is a {found.model}, not a {config.model}; use another --state")
    if config.trust and not set(load_anchors(config.trust)) <= set(found.trust_anchors):
        raise ConfigError(f"{path}: the device does not trust that key; trust anchors are set once, at the factory")


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror or error}") from error

"""``python -m coap_device`` is ``ota-device``."""

from coap_device.cli import main

if __name__ == "__main__":
    main()

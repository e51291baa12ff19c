"""``python -m coap_server``: the same as the ``ota-server`` command."""

import sys

from coap_server.cli import main

# The guard matters: processes that make deltas import this module again.
if __name__ == "__main__":
    sys.exit(main())

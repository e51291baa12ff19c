"""SUIT manifests: read, verify, process and write them (the draft named in `protocol.SPECS`)."""

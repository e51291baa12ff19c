"""One use case per module. Views and commands call these; they know neither CoAP nor a terminal."""

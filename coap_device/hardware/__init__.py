"""The emulated board: a NOR flash with its rules, where its regions lie, and a power supply that can fail."""

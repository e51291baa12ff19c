"""What the flash holds and what survives a power cut: slots, trailers, envelopes, ledger, transfer, bootloader.

Everything here reads its state from the flash when it is built and never trusts what memory held before a cut. No
clock, no loop, no socket: a power cut at any flash operation must leave the same story for the next boot.
"""

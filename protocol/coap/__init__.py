"""The part of CoAP that this project speaks itself: messages, block options, transmission parameters."""

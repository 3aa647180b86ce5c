"""Bytes to values and back: pure functions, no input or output. Normative text: ``specs/format.md``."""

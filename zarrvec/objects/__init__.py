"""Object storage: one small protocol, and what speaks it. Normative text: ``specs/storage-operations.md``."""

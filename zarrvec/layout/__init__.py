"""Decisions that need no input or output: what to read together, what to pack together, what to fold, what conflicts."""

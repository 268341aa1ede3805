"""Frozen values: what crosses a file boundary. No torch, no I/O."""

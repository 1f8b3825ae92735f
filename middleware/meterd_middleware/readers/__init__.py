"""Readers of provider responses: bytes in, token counts out; one file a dialect, no I/O."""

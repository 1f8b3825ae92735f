"""The version of this distribution, for Hello and segment headers: reading the installed
metadata costs an import of 15 ms. `tests/delivery/test_spool.py` holds the two equal."""

VERSION = "0.1.0"

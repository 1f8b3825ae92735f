"""meterd's wire format: the messages of package `meterd.v1` and their typed stubs."""

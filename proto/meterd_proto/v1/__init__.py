"""Version 1 of the wire format. Fields are only ever added."""

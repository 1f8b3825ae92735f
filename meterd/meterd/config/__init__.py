"""`meterd.toml`: read and checked as a whole, held as frozen values."""

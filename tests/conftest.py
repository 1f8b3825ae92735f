"""What every test has: nothing but time limits and warnings as errors, set in pyproject.toml."""

"""One short script with each SDK."""

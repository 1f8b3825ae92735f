"""Apps, scripts and recipes that show meterd at work; each is run by a test."""

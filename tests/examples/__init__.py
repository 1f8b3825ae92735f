"""Every example and recipe, run as a user would run it."""

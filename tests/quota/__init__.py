"""Quotas: decisions in the app, lending in the daemon, both against a model."""

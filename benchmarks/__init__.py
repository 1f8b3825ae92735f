"""Figures, as ratios to the bare thing in the same run; see docs/benchmarks.md. No tests."""

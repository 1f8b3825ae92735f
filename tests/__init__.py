"""Tests of the workspace, by guarantee."""

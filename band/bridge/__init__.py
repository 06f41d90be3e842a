"""Checkpoints, configurations, search spaces of lfads-torch and BAND-torch, read without running any of theirs."""

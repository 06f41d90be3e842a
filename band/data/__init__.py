"""Recordings: HDF5 to trials, splits and folds, checks, and simulated recordings whose truth is known."""

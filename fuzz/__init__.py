"""Fuzzing of every reader of what others may have written; `make fuzz`."""

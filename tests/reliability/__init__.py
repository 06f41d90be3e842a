"""A hostile bench: faults are injected by seed or by stepping, and what is on disk afterwards is judged and counted."""

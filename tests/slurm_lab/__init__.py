"""A real Slurm cluster of several nodes on one machine, for tests and for a shell."""

"""What Slurm's commands are asked, and how their answers are read; imports nothing heavy."""

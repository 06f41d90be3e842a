"""BAND and LFADS sweeps: behaviour-aligned models of neural spiking, trained in populations on Slurm or one machine."""

__version__ = "0.1.0"

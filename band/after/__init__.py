"""After training: finished runs opened again, for new recordings, samples, ablations, perturbations and decoders."""

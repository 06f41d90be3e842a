"""Training a population: noise, optimiser, schedules, loop, checkpoint, outputs and scores."""

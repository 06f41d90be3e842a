"""What runs inside a job: stage the data, supervise the trainer, publish its runs."""

"""Runs brought home and sweeps sent out, over OpenSSH and rsync as they are installed."""

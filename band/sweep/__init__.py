"""What runs on the login node: expand a sweep, pack it into tasks, submit, follow and report."""

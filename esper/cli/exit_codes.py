"""What the command's exit code says."""

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

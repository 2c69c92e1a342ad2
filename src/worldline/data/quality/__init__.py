"""What the logs alone tell of themselves: alignment, coverage, and what is odd."""

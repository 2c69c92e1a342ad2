"""The HTTP service of a world."""

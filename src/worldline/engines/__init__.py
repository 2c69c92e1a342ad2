"""Engines: what stands behind a world."""

"""Worlds: the product contract, over any engine."""

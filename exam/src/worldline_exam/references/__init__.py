"""Oracles and must-fail models, with which the exam checks itself."""

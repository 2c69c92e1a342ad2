"""Oracles and models that must fail: what the exam examines itself with."""

"""Plots of stores, episodes and results."""

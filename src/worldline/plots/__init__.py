"""Plots of stores and episodes."""

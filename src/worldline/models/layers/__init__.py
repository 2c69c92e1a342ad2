"""Layers and regularisers that several models and heads use."""

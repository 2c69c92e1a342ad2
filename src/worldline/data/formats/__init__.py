"""Importers and exporters: one file or folder a format."""

"""Importers and exporters, one file or folder per format."""

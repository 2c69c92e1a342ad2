"""Importer of Minari datasets."""

"""Importers of HDF5 files: one dataset per column, and robomimic."""

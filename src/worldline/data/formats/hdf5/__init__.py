"""HDF5: a dataset a column, and robomimic."""

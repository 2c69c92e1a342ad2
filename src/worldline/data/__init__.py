"""Data: stores, windows, checks, and importers of logs."""

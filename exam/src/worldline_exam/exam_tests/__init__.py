"""The sixteen tests, one file each."""

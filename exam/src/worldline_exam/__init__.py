"""The sixteen tests of understanding, one file each, and how they are scored."""

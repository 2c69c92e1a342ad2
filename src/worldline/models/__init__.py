"""World models: one family, one file."""

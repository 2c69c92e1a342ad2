"""Pictures of stores and episodes."""

"""Small networks fitted on a frozen model."""

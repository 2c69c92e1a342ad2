"""Training: one readable loop, fitting of heads."""

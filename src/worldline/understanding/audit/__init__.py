"""The audit: a trained world on its owner's logs, without twins, and what may be done with it."""

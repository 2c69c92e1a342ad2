"""The audit: a trained world on its owner's logs, against twins where there is an environment, and what may be done."""

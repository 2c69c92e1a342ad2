"""Small networks that are fitted on a frozen model; each file holds config, network, fit, and what the fit needs."""

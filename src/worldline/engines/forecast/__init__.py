"""Pretrained forecasters of time series, as engines."""

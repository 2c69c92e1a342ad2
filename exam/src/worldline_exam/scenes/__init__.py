"""Scenes and queries that several tests share."""

"""Scenes and questions that several tests share."""

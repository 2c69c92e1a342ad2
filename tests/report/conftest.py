"""Fixtures of toy worlds with known errors, and of a report of one."""

from tests.audit.toy_reports import diagnostics, episodes, report, worlds

__all__ = ["diagnostics", "episodes", "report", "worlds"]

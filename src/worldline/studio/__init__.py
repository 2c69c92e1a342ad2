"""The browser application: its files, and pages that hold all of it."""

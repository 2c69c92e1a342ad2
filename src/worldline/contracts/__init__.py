"""The contracts: abstract base classes and frozen dataclasses, no algorithms."""

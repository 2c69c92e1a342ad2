"""Engines for worldline that live in a package of their own."""

"""An engine for worldline that lives in a package of its own."""

"""A world for other processes: the verbs over HTTP."""

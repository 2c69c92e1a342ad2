"""Acting in an environment with a world: a replanning controller, and how often it reaches goals."""

"""The command line: one thin file a command. Each imports what is heavy only once it runs."""

"""The command line: each command turns its arguments into a question or a job and prints what comes of it."""

"""The command line: what may be written, and what each command does."""

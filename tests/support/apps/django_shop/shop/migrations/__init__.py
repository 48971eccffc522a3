"""The shop's tables, in two steps."""

"""Configuration files: read, checked, shown, converted, turned into commands."""

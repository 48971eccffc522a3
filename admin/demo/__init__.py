"""A whole installation of its own, shown in checked steps."""

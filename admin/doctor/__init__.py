"""Examines an installation and says what to mend."""

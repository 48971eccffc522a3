"""The wire: who is this tenant, what may it say, and the bytes both ways."""

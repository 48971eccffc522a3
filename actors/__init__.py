"""Actors: each tenant's pool, limits and lease have one owner here."""

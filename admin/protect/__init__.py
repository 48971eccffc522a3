"""Brings shared databases to what row tenants need."""

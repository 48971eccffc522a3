"""The operators' SQL console, and what workers answer to it."""

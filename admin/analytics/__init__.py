"""The documented answers about usage, and reports made of them."""

"""PostgreSQL's frontend/backend protocol, both sides of the proxy."""

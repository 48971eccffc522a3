"""PostgreSQL and NATS as parts of an installation: embedded, kept alive, found."""

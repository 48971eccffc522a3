"""Makes PostgreSQL match the tenants: roles, databases, schemas, the seal, branches."""

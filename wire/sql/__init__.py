"""Reading SQL: templates, what a statement does, and whether it may."""

"""What row tenants need beyond the applications' own migrations."""

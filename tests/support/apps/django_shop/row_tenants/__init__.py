"""The tenant column of tables that tenants share: only migrations, no models."""

"""Every table that belongs to tenants gets the tenant column. No model has it."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

TABLES = (
    *("auth_user", "auth_group", "auth_user_groups", "auth_group_permissions"),
    *("auth_user_user_permissions", "django_admin_log", "django_session"),
    *("shop_category", "shop_tag", "shop_product", "shop_product_tags", "shop_customer"),
    *("shop_order", "shop_line"),
)


class Migration(migrations.Migration):
    dependencies: ClassVar = [
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("sessions", "0001_initial"),
        ("shop", "0001_initial"),
    ]
    operations: ClassVar = [
        migrations.RunSQL(
            f'ALTER TABLE "{table}" ADD COLUMN tenant_id text',
            f'ALTER TABLE "{table}" DROP COLUMN tenant_id',
        )
        for table in TABLES
    ]

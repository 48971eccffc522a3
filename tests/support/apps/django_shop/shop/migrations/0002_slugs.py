"""Categories get slugs, made of the names that they have."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models
from django.utils.text import slugify


def fill(apps: Any, editor: Any) -> None:
    for category in apps.get_model("shop", "Category").objects.order_by("id").iterator():
        category.slug = slugify(category.name)
        category.save(update_fields=["slug"])


class Migration(migrations.Migration):
    dependencies: ClassVar = [("shop", "0001_initial")]
    operations: ClassVar = [
        migrations.AddField("category", "slug", models.SlugField(max_length=40, null=True)),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AlterField("category", "slug", models.SlugField(max_length=40)),
    ]

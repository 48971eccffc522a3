"""Pages for the shop's staff."""

from __future__ import annotations

from django.contrib import admin

from shop.models import Category, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ("sku", "name", "category", "price")
    list_filter = ("category", "added")
    search_fields = ("name", "category__name")
    date_hierarchy = "added"
    filter_horizontal = ("tags",)


admin.site.register(Category)

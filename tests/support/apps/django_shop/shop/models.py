"""What the shop keeps. No model here knows of tenants."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class Country(models.Model):
    """The same for everybody: filled by a migration, changed by nobody."""

    code = models.CharField(max_length=2, primary_key=True)
    name = models.CharField(max_length=60)


class Category(models.Model):
    name = models.CharField(max_length=40, unique=True)
    slug = models.SlugField(max_length=40)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")


class Tag(models.Model):
    name = models.CharField(max_length=40, unique=True)


class Product(models.Model):
    sku = models.CharField(max_length=20, unique=True)
    name = models.CharField(max_length=80)
    category = models.ForeignKey(Category, models.PROTECT, related_name="products")
    price = models.DecimalField(max_digits=10, decimal_places=2)
    stock = models.PositiveIntegerField(default=0)
    attributes = models.JSONField(default=dict)
    added = models.DateField()
    tags = models.ManyToManyField(Tag, related_name="products")

    class Meta:
        ordering = ("sku",)
        indexes = (models.Index(fields=["added", "price"], name="product_added_price"),)
        constraints = (
            models.UniqueConstraint(fields=["category", "name"], name="product_name"),
            models.CheckConstraint(condition=Q(price__gte=0), name="product_price"),
        )

    def __str__(self) -> str:
        return self.name


class Customer(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE)
    country = models.ForeignKey(Country, models.PROTECT)


class Order(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    customer = models.ForeignKey(Customer, models.CASCADE, related_name="orders")
    state = models.CharField(max_length=10, default="cart")
    placed = models.DateTimeField(null=True)
    total = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    products = models.ManyToManyField(Product, through="Line")

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["customer"], condition=Q(state="cart"), name="order_one_cart"
            ),
        )


class Line(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT, related_name="lines")
    quantity = models.PositiveIntegerField()

    class Meta:
        unique_together = (("order", "product"),)

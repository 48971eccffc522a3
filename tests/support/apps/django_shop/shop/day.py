"""A day in the life of the shop: each function is a step, and returns what was seen."""

from __future__ import annotations

import datetime
import io
import json
import os
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.core import serializers
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import Avg, Case, Exists, F, OuterRef, Prefetch, Q, Sum, Value, When, Window
from django.db.models.functions import Lower, Rank, TruncMonth
from django.test import Client
from django.test.utils import setup_test_environment

from shop.models import Category, Country, Customer, Line, Order, Product, Tag

COLOURS = ("red", "green", "blue")
PASSWORD = "open sesame"
FIXTURE = Path(tempfile.gettempdir()) / f"shop-{os.getpid()}.json"


def start() -> list[Any]:
    """The first version of the shop fills its shelves, before there are slugs."""
    with connection.cursor() as cursor:
        names = [("Tools", None), ("Hand tools", "Tools"), ("Garden & Co", None)]
        for name, parent in names:
            cursor.execute(
                "INSERT INTO shop_category (name, parent_id) "
                "SELECT %s, (SELECT id FROM shop_category WHERE name = %s) RETURNING name",
                [name, parent],
            )
        cursor.executemany("INSERT INTO shop_tag (name) VALUES (%s)", [["old"], ["round"]])
        cursor.execute("SELECT name FROM shop_category ORDER BY name")
        return cursor.fetchall()


def stock() -> list[Any]:
    """Objects one by one and in bulk, and what the ORM asks of them."""
    seen: list[Any] = list(Category.objects.order_by("name").values_list("name", "slug"))
    tools = Category.objects.get(name="Tools")
    kinds = list(Category.objects.order_by("name"))
    made = Product.objects.bulk_create(
        [
            Product(
                sku=f"P{number:03}",
                name=f"Thing {number}",
                category=kinds[number % 3],
                price=Decimal(number) / 4,
                stock=number,
                attributes={"colour": COLOURS[number % 3], "sizes": [number, number + 1]},
                added=datetime.date(2024, 1 + number % 12, 1 + number % 28),
            )
            for number in range(40)
        ],
        batch_size=25,
    )
    seen.append(all(each.pk for each in made))
    old, _ = Tag.objects.get_or_create(name="old")
    seen.append(Tag.objects.get_or_create(name="new")[1])
    old.products.add(*made[:7])
    old.products.remove(made[0])
    made[10].tags.set(Tag.objects.filter(name__in=["old", "new"]))
    Product.objects.filter(sku="P039").delete()
    seen.append(Product.objects.update_or_create(sku="P001", defaults={"stock": 11})[1])
    for product in made[1:4]:
        product.price += 1
    seen.append(Product.objects.bulk_update(made[1:4], ["price"]))
    seen.append(
        Tag.objects.bulk_create([Tag(name="x"), Tag(name="y")], ignore_conflicts=True)[0].name
    )
    upsert = {"update_conflicts": True, "unique_fields": ["name"], "update_fields": ["name"]}
    seen.append(len(Tag.objects.bulk_create([Tag(name="x"), Tag(name="z")], **upsert)))
    seen.append(list(Tag.objects.order_by("name").values_list("name", flat=True)))
    try:
        with transaction.atomic():
            Tag.objects.create(name="round")
    except IntegrityError as error:
        seen.append([error.__cause__.sqlstate, error.__cause__.diag.constraint_name])
    try:
        with transaction.atomic():
            Product.objects.filter(sku="P002").update(price=-1)
    except IntegrityError as error:
        seen.append(error.__cause__.diag.constraint_name)
    seen.append(tools.children.count())
    return seen


def query() -> list[Any]:
    found = Product.objects.all()
    seen: list[Any] = [
        found.aggregate(Sum("stock"), Avg("price"), tall=Sum("stock", filter=Q(price__gt=5)))
    ]
    month = found.annotate(month=TruncMonth("added")).values("month").order_by("month")
    seen.append(list(month.annotate(n=Sum("stock"))))
    seen.append(list(found.filter(attributes__sizes__contains=[5]).values_list("sku")))
    seen.append(list(found.filter(attributes__colour="red").dates("added", "year")))
    rank = Window(Rank(), partition_by="category", order_by=F("price").desc())
    seen.append(
        list(found.annotate(r=rank).filter(r__lte=2).order_by("sku").values_list("sku", "r"))
    )
    shown = Prefetch("products", Product.objects.filter(stock__gt=3).order_by("sku"))
    for category in Category.objects.prefetch_related(shown, "products__tags").order_by("name"):
        seen.append([[p.sku, len(p.tags.all())] for p in category.products.all()])
    label = Case(When(stock=0, then=Value("none")), default=Lower("name"))
    seen.append(list(found.annotate(label=label).values_list("label", flat=True)[:3]))
    tagged = Exists(Tag.objects.filter(products=OuterRef("pk"), name="old"))
    seen.append(list(found.filter(tagged).values_list("sku", flat=True)))
    few = found.filter(sku__lt="P003").union(found.filter(stock__gt=37))
    seen.append(sorted(few.values_list("sku", flat=True)))
    seen.append(
        list(found.filter(~Q(tags__name="old"), name__icontains="thing 1").values_list("sku"))
    )
    seen.append(sum(1 for _ in found.iterator(chunk_size=7)))
    seen.append(sorted(p.category.name for p in found.select_related("category__parent")[:4]))
    raw = Product.objects.raw("SELECT * FROM shop_product WHERE price > %s ORDER BY sku", [9])
    seen.append([[p.sku, p.stock] for p in raw])
    seen.append(list(found.values("category__parent__name").annotate(n=Sum("stock")).order_by("n")))
    seen.append(list(Category.objects.filter(products__isnull=True).values_list("name")))
    seen.append(list(found.in_bulk(["P001"], field_name="sku")))
    seen.append(
        found.distinct("category__name").order_by("category__name", "sku").values_list("sku")[1]
    )
    return seen


def visit() -> list[Any]:
    """The shop's pages and the staff's, by a browser."""
    setup_test_environment()
    boss = User.objects.create_superuser("boss", "boss@example.org", PASSWORD)
    ann = User.objects.create_user("ann", password=PASSWORD)
    Customer.objects.create(user=ann, country=Country.objects.get(code="at"))
    staff = Group.objects.create(name="staff")
    staff.permissions.set(Permission.objects.filter(content_type__app_label="shop"))
    boss.groups.add(staff)
    seen: list[Any] = [staff.permissions.count(), ann.has_perm("shop.view_product")]
    client = Client()
    seen.append(client.post("/checkout/", {"P005": 2}).status_code)
    seen.append(client.login(username="ann", password=PASSWORD))
    for form in ({"P005": 2, "P006": 1}, {"P007": 1, "P008": 99}, {"P005": 1}):
        answer = client.post("/checkout/", form)
        seen.append([answer.status_code, answer.json()])
    seen.append(
        list(Order.objects.order_by("total").values_list("state", "total", "products__sku"))
    )
    for address in ("/catalog/", "/catalog/?colour=red&page=2", "/report/"):
        seen.append(client.get(address).json())
    client.logout()
    seen.append(client.login(username="boss", password=PASSWORD))
    for address in ("", "?q=tools&o=-4", "?added__year=2024&added__month=3", "add/"):
        answer = client.get(f"/admin/shop/product/{address}")
        shown = answer.context.get("cl")
        seen.append([answer.status_code, shown and [p.sku for p in shown.result_list][:9]])
    answer = client.post("/admin/shop/category/add/", {"name": "By hand", "slug": "by-hand"})
    seen.append(
        [answer.status_code, list(boss.logentry_set.values_list("object_repr", "action_flag"))]
    )
    return seen


def clear() -> list[Any]:
    """Everything into a fixture; then deleting, with all that hangs on it."""
    FIXTURE.write_text(dumped())
    kept = Product.objects.filter(lines__isnull=False).count()
    with transaction.atomic():
        for model in (Order, Product, Category, Tag):
            model.objects.all().delete()
    return [kept, Line.objects.count(), Product.objects.count()]


def load() -> list[Any]:
    """The fixture in again, as Django does it, which moves the tables' sequences, too."""
    call_command("loaddata", str(FIXTURE), verbosity=0)
    return loaded()


def load_rows() -> list[Any]:
    """The fixture in again, where the sequences are not ours to move."""
    with transaction.atomic(), FIXTURE.open() as file:
        for each in serializers.deserialize("json", file):
            each.save()
    return loaded()


def dumped() -> str:
    out = io.StringIO()
    call_command("dumpdata", "shop.category", "shop.tag", "shop.product", indent=1, stdout=out)
    return out.getvalue()


def loaded() -> list[Any]:
    seen: list[Any] = [dumped() == FIXTURE.read_text(), len(json.loads(dumped()))]
    seen += Product.objects.values_list("sku", "tags__name").order_by("sku", "tags__name")
    seen.append([model.objects.count() for model in (Category, Tag, User, Customer, Group)])
    return seen


def look() -> list[Any]:
    """What Django reads from the catalog."""
    out = io.StringIO()
    call_command("inspectdb", "shop_product", "shop_category", "shop_order", stdout=out)
    seen: list[Any] = out.getvalue().splitlines()
    plan = io.StringIO()
    call_command("showmigrations", "shop", "auth", stdout=plan)
    seen += plan.getvalue().splitlines()
    with connection.cursor() as cursor:
        looks = connection.introspection
        seen.append(sorted(n for n in looks.table_names(cursor) if n.startswith("shop")))
        seen.append(sorted(looks.get_relations(cursor, "shop_line").values()))
        seen.append(sorted(looks.get_constraints(cursor, "shop_product")))
    return seen

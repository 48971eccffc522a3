"""The shop's pages."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db import connection, transaction
from django.db.models import Count, F
from django.http import HttpRequest, JsonResponse
from django.utils import timezone

from shop.models import Line, Order, Product


def catalog(request: HttpRequest) -> JsonResponse:
    """Products of a colour, page by page."""
    found = Product.objects.select_related("category").prefetch_related("tags")
    if colour := request.GET.get("colour"):
        found = found.filter(attributes__colour=colour)
    found = found.annotate(sold=Count("lines")).order_by("-sold", "sku")
    page = Paginator(found, 5).get_page(request.GET.get("page"))
    rows = [
        [each.sku, each.category.name, str(each.price), sorted(t.name for t in each.tags.all())]
        for each in page
    ]
    return JsonResponse({"pages": page.paginator.num_pages, "rows": rows})


@login_required(login_url="/admin/login/")
@transaction.atomic
def checkout(request: HttpRequest) -> JsonResponse:
    """Buys what the form names: all of it, or nothing."""
    wanted = {sku: int(number) for sku, number in request.POST.items()}
    order = Order.objects.create(customer=request.user.customer)
    products = Product.objects.select_for_update().filter(sku__in=wanted).order_by("sku")
    lines = []
    for product in products:
        lines.append(Line(order=order, product=product, quantity=wanted[product.sku]))
        if product.stock < wanted[product.sku]:
            transaction.set_rollback(True)
            return JsonResponse({"lacking": product.sku}, status=409)
        Product.objects.filter(pk=product.pk).update(stock=F("stock") - wanted[product.sku])
        order.total += product.price * wanted[product.sku]
    Line.objects.bulk_create(lines)
    order.state, order.placed = "placed", timezone.now()
    order.save()
    return JsonResponse({"total": str(order.total), "lines": order.lines.count()})


def report(request: HttpRequest) -> JsonResponse:
    """Sales by category and its parents, in SQL."""
    sql = """
        WITH RECURSIVE tree AS (
            SELECT id, name, 0 AS depth FROM shop_category WHERE parent_id IS NULL
            UNION ALL
            SELECT c.id, c.name, t.depth + 1 FROM shop_category c JOIN tree t ON c.parent_id = t.id)
        SELECT t.name, t.depth, count(l.id), coalesce(sum(l.quantity * p.price), 0)::text,
               rank() OVER (ORDER BY coalesce(sum(l.quantity), 0) DESC)
        FROM tree t LEFT JOIN shop_product p ON p.category_id = t.id
        LEFT JOIN shop_line l ON l.product_id = p.id AND l.quantity > %s
        GROUP BY t.id, t.name, t.depth ORDER BY t.depth, t.name"""
    with connection.cursor() as cursor:
        cursor.execute(sql, [0])
        rows: list[Any] = cursor.fetchall()
    return JsonResponse({"rows": rows})

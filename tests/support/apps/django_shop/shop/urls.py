"""Where the shop's pages are."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("catalog/", views.catalog),
    path("checkout/", views.checkout),
    path("report/", views.report),
]

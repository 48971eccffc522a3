"""Settings of the shop: an ordinary Django project whose database is named by SHOP_DATABASE.

SHOP_DATABASE     a libpq connection string
SHOP_ROW_TENANTS  "yes" when the tables are shared by tenants: one more application (row_tenants)
"""

from __future__ import annotations

import os

from psycopg import conninfo

_given = conninfo.conninfo_to_dict(os.environ["SHOP_DATABASE"])

SECRET_KEY = "not a secret: this shop sells nothing"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
LOGGING_CONFIG = None
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "shop",
]
if os.environ.get("SHOP_ROW_TENANTS") == "yes":
    INSTALLED_APPS.append("row_tenants")
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _given["host"],
        "PORT": _given["port"],
        "USER": _given["user"],
        "PASSWORD": _given["password"],
        "NAME": _given["dbname"],
        "OPTIONS": {"server_side_binding": os.environ.get("SHOP_SERVER_SIDE") == "yes"},
    }
}

"""The settings of a small shop: pages, parts of pages and sessions in kvserve.

SHOP=plain computes every page, and keeps the sessions in the database.
"""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent
DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY", HERE))

CACHES = {
    "default": {
        "BACKEND": "kvserve.integrations.django.KvserveCache",
        "TIMEOUT": 60,
        "OPTIONS": {"start": True},  # the first write starts the server
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
if os.environ.get("SHOP") == "plain":
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    SESSION_ENGINE = "django.contrib.sessions.backends.db"

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DIRECTORY / "sales.db"},
}
INSTALLED_APPS = ["django.contrib.sessions"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [HERE / "templates"]},
]
ROOT_URLCONF = "views"
SECRET_KEY = "of an example"
ALLOWED_HOSTS = ["*"]
USE_TZ = True

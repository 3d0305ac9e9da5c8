"""The application of `application.py` as a Django project of one file, with its manage.py."""

from __future__ import annotations

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse
from django.urls import re_path

from support.application import answer

if not settings.configured:
    settings.configure(DEBUG=True, ROOT_URLCONF=__name__, SECRET_KEY="of a test", USE_TZ=True)


def view(request: HttpRequest) -> HttpResponse:
    """Answers everything."""
    status, text = answer(request.path)
    return HttpResponse(text, status=status)


urlpatterns = [re_path("", view)]

if __name__ == "__main__":
    # The autoreloader starts this module again, and looks for changes of what it imports.
    sys.path.insert(0, "")  # its working directory
    __import__("service")
    execute_from_command_line(sys.argv)

"""The shop's pages: one kept whole, one with a part that is kept, and a cart in the session."""

from __future__ import annotations

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import cache_page


def best_sellers(shelf: int) -> list[tuple[int, int]]:
    """The articles of a shelf that sell best: a query of some milliseconds."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT article, sum(pieces) FROM sales WHERE shelf = %s GROUP BY article "
            "ORDER BY 2 DESC LIMIT 10",
            [shelf],
        )
        rows: list[tuple[int, int]] = cursor.fetchall()
        return rows


@cache_page(60)
def show_shelf(request: HttpRequest, shelf: int) -> HttpResponse:
    """What sells best of a shelf, kept for a minute."""
    del request
    return JsonResponse(best_sellers(shelf), safe=False)


def show_cart(request: HttpRequest) -> HttpResponse:
    # The template keeps the best sellers; it calls the function where it has none.
    context = {"cart": request.session.get("cart", {}), "best": lambda: best_sellers(0)}
    return render(request, "cart.html", context)


def add_to_cart(request: HttpRequest, article: int) -> HttpResponse:
    cart = request.session.setdefault("cart", {})
    cart[str(article)] = cart.get(str(article), 0) + 1
    request.session.modified = True
    return JsonResponse(cart)


urlpatterns = [
    path("shelf/<int:shelf>", show_shelf),
    path("cart", show_cart),
    path("cart/<int:article>", add_to_cart),
]

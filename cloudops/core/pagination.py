"""Keyset paging for the API: stable under inserts, and as quick on page 1,000 as on page 1."""

from __future__ import annotations

from rest_framework.pagination import CursorPagination


class Keyset(CursorPagination):
    """``?cursor=`` from ``next``/``previous``; ``?page_size=`` up to 500. A viewset names its ``ordering``."""

    page_size = 50
    max_page_size = 500
    page_size_query_param = "page_size"
    ordering = "-pk"

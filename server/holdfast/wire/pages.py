"""Paging headers of the search operations."""

from __future__ import annotations


def page_headers(offset: int, shown: int, *, more: bool) -> dict[str, str]:
    """`X-Pagination-Next` only if more rows exist; `X-Pagination-Total` counts what is known to exist so far."""
    end = offset + shown
    if more:
        return {"x-pagination-next": str(end), "x-pagination-total": str(end + 1)}
    return {"x-pagination-total": str(end)}

"""Errors on the wire."""

from __future__ import annotations

from pydantic import BaseModel


class Problem(BaseModel):
    """What went wrong, for people. Every error of the API has this shape."""

    detail: str


class Failure(BaseModel):
    """How a run failed: the class of the exception, and what it says if that may be told."""

    error: str
    message: str

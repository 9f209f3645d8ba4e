"""Holdfast: an open agent server for LangGraph."""

from importlib.metadata import version

__version__ = version("holdfast")

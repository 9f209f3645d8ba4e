"""Values that fields of the store's operations do not take."""

from __future__ import annotations

from typing import Any

WRONG_IN_THE_STORE: dict[str, list[Any]] = {
    "namespace": [None, 5, "a.b", {}, [5], [""], ["a.b"], ["a\x00"], ["holdfast-owner:ada"], ["x" * 2000], []],
    "namespace_prefix": [5, "a.b", {}, [5], [""], ["a.b"], ["a\x00"], ["holdfast-owner:ada"], ["ü" * 600]],
    "prefix": [5, "a.b", [None], [""], ["a\x00"], ["holdfast-owner:ada"]],
    "suffix": [5, "a.b", [None], [""], ["a\x00"]],
    "max_depth": [0, -1, "deep", 1.5, 10**12, [1]],
    "key": [None, 5, {}, "", "a\x00", "x" * 2000],
    "value": [None, 5, "text", [1], {"a": "\x00"}, {"a\x00": 1}],
    "index": [True, 5, "text", [5], [""], ["a\x00"], ["x" * 300], {}],
    "ttl": [0, -1, "soon", 10**12, 1e300, [1]],
    "filter": [5, "text", [1], {"a": {"$in": [1]}}, {"a": {"$gt": None}}, {"a": "\x00"}, {"a\x00": 1}],
    "query": [5, {}, ["text"]],
    "refresh_ttl": ["perhaps", 5, {}],
}

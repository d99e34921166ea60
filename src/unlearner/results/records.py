"""Identity: rows of `records.jsonl` by id, any data by hash."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def with_ids(rows: Iterable[Row]) -> list[Row]:
    """The rows of a `records.jsonl`, with an `id` where they have none: rows of layout 1, and new ones.

    The id of a row tells it from all others of its evaluation, and is the same in every evaluation of the same sets: a
    hash of set, question, answer, and how many equal rows stand before it.
    """
    seen: Counter[tuple[Any, ...]] = Counter()
    found = []
    for row in rows:
        key = (row.get("set"), row.get("question"), row.get("answer"))
        seen[key] += 1
        found.append(row if "id" in row else {"id": sha256([*key, seen[key]])[:16], **row})
    return found


def sha256(*values: Any) -> str:
    """The hash of some JSON values: a line each, keys in order, so that no two lists of values read the same."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()

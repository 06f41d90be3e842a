"""Manifests as a test alters them, with the digest that an alteration made by `generate` would have."""

from __future__ import annotations

import hashlib
import json


def signed(text: str) -> str:
    """Return the text of a manifest with the digest that belongs to it: sha256 over the lines, its own left out."""
    head, *lines = text.splitlines()
    values = {key: value for key, value in json.loads(head).items() if key != "digest"}
    digest = hashlib.sha256("\n".join([json.dumps(values), *lines]).encode()).hexdigest()
    return "\n".join([json.dumps({**values, "digest": digest}), *lines]) + "\n"

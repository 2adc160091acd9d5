"""User text in the Markdown that the web UI shows as metadata."""

import html


def escaped(text: str) -> str:
    """Text escaped so that neither a Markdown table nor HTML interprets it."""
    safe = html.escape(text).replace("\n", " ").replace("\r", " ")
    for mark in "\\`*_[]|":
        safe = safe.replace(mark, f"&#{ord(mark)};")
    return safe

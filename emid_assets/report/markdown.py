"""Text of users in Markdown: what the web UI shows as metadata."""

import html


def escaped(text: str) -> str:
    """Text that neither a Markdown table nor HTML takes for its own."""
    safe = html.escape(text).replace("\n", " ").replace("\r", " ")
    for mark in "\\`*_[]|":
        safe = safe.replace(mark, f"&#{ord(mark)};")
    return safe

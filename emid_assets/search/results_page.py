"""The page of `emid query --html`: the query file and its results, to look at and listen to."""

from pathlib import Path
from typing import Any

from jinja2 import Environment

from emid_assets.media.audio import probe_audio
from emid_assets.report.gallery import Copy, player, thumbnail
from emid_assets.search.query import Answer

TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ answer.file.name }}: nearest by {{ answer.network }}</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
  ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); padding: 0 }
  li { border: 1px solid #8886; border-radius: .75rem; list-style: none; padding: .75rem }
  img { border-radius: .5rem; max-width: 100%; width: 12rem }
  audio { width: 100% }
  p { margin: .3rem 0; overflow-wrap: anywhere }
</style>
<h1>{{ answer.file.name }}</h1>
{% macro medium(copy, name) %}
  {% if copy.problem %}<p>{{ copy.problem }}</p>
  {% elif copy.uri.startswith("data:audio") %}
    <audio controls preload="none" src="{{ copy.uri }}" aria-label="{{ name }}"></audio>
  {% else %}<img src="{{ copy.uri }}" alt="{{ name }}">{% endif %}
{% endmacro %}
{{ medium(asked, answer.file.name) }}
<p>Nearest {{ "images" if answer.kind == "music" else "clips" }} by the network <b>{{ answer.network }}</b>.
   S: semantic similarity over all, E: emotional similarity, T = αS̃ + (1 − α)E.</p>
<ol>
{% for row, copy in found %}
  <li>{{ medium(copy, row.item_id) }}
    <p><b>{{ row.rank }}. {{ row.label }}</b><br>{{ row.item_id }}</p>
    <p>S {{ "%.4f" | format(row.semantic_similarity) }} · E {{ "%.3f" | format(row.emotional_similarity) }} ·
       T {{ "%.3f" | format(row.fused_score) }}</p></li>
{% endfor %}
</ol>
</html>
"""


def results_page(answer: Answer, media: Path) -> str:
    """A self-contained page; `media` is the folder that the results' files are below."""
    rows = answer.results.to_dicts()

    def asked() -> Copy:
        folder, file = answer.file.resolve().parent, answer.file.resolve().name
        if answer.kind == "image":
            return thumbnail(folder, file)
        seconds = probe_audio(answer.file).duration_s if answer.file.is_file() else 0.0
        return player(folder, file, 0.0, seconds)

    def found(row: dict[str, Any]) -> Copy:
        if answer.kind == "music":
            return thumbnail(media, row["file"])
        return player(media, row["file"], row["start_s"], row["duration_s"])

    return (
        Environment(autoescape=True)
        .from_string(TEMPLATE)
        .render(
            answer=answer,
            asked=asked(),
            found=[(row, found(row)) for row in rows],
        )
    )

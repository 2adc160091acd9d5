// Filters the gallery by emotion and lets one player sound at a time. Without it, the filter's
// links jump to the emotion's first clip.
"use strict";
{
  const links = [...document.querySelectorAll("[data-filter]")];
  const clips = [...document.querySelectorAll("[data-emotion]")];
  const said = document.getElementById("filter-said");
  const show = (emotion) => {
    for (const clip of clips) clip.hidden = emotion !== "" && clip.dataset.emotion !== emotion;
    for (const link of links) {
      if (link.dataset.filter === emotion) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const shown = clips.filter((clip) => !clip.hidden).length;
    if (said) said.textContent = shown + (shown === 1 ? " clip" : " clips");
  };
  for (const link of links)
    link.addEventListener("click", (event) => {
      event.preventDefault();
      show(link.dataset.filter);
    });
  document.addEventListener("play", (event) => {
    for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
  }, true);
  show("");
}

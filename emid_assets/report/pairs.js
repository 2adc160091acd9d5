// Builds only the rows of clips that are in view: all rows have the same height, so that the position of
// each is known without building it.
"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const NAMES = ["Semantic only (α = 1)", "α in use (" + data.alpha + ")", "Adapter"];
  const SHORT = ["semantic", "α in use", "adapter"];
  const FIELDS = 4, GAP = 12, BEYOND = 2;
  const list = at("list"), audio = at("audio");
  let chosen = [], rows = new Map(), height = 0, playing = null;

  const element = (tag, className = "", words = "") => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (words) made.textContent = words;
    return made;
  };
  const first = (clip, system) => data.picks[clip][system][0];
  const firstT = (clip, system) => data.picks[clip][system][3] ?? 0;
  const imagesOf = (clip, system) => data.picks[clip][system].filter((_, place) => place % FIELDS === 0);

  const card = (clip, system, place) => {
    const [image, S, E, T] = data.picks[clip][system].slice(place * FIELDS, (place + 1) * FIELDS);
    const [name, tag, source, problem] = data.images[image];
    const item = element("li");
    const also = SHORT.filter((_, other) => other !== system && imagesOf(clip, other).includes(image));
    const frame = element("div", also.length ? "frame shared" : "frame");
    const picture = element("img");
    const gone = (words) => { frame.replaceChildren(element("span", "", words)); };
    if (problem) gone(problem);
    else {
      picture.alt = tag + ": " + name;
      picture.title = name;
      picture.decoding = "async";
      picture.addEventListener("error", () => gone("not found: " + name));
      picture.src = source;
      frame.append(picture);
    }
    const scores = [["T", T.toFixed(3), " strong"], ["E", E.toFixed(3), ""], ["S", S.toPrecision(3), ""]];
    item.append(frame, element("div", "line tag", tag),
      ...scores.map(([symbol, value, how]) => element("div", "line" + how, symbol + " " + value)),
      element("div", "line also", also.length ? "also " + also.join(", ") : ""));
    return item;
  };

  const row = (place) => {
    const clip = chosen[place];
    const [name, emotion, seconds, , problem] = data.clips[clip];
    const made = element("article", "row");
    made.setAttribute("role", "listitem");
    made.setAttribute("aria-setsize", chosen.length);
    made.setAttribute("aria-posinset", place + 1);
    made.dataset.clip = name;
    const head = element("div", "head"), play = element("button", "", "▶ Play");
    play.type = "button";
    play.setAttribute("aria-label", "Play " + name);
    play.setAttribute("aria-pressed", String(clip === playing && !audio.paused));
    play.disabled = Boolean(problem);
    play.title = problem;
    play.addEventListener("click", () => toggle(clip));
    const title = element("h2", "", name);
    title.title = name;
    head.append(play, element("span", "chip", emotion), title, element("p", "note", seconds.toFixed(1) + " s"));
    const systems = element("div", "systems");
    NAMES.forEach((words, system) => {
      const column = element("section"), images = element("ol");
      column.append(element("h3", "", words), images);
      for (let each = 0; each * FIELDS < data.picks[clip][system].length; each++)
        images.append(card(clip, system, each));
      systems.append(column);
    });
    made.append(head, systems);
    return made;
  };

  const draw = () => {
    const top = list.getBoundingClientRect().top;
    const from = Math.max(0, Math.floor(-top / height) - BEYOND);
    const to = Math.min(chosen.length, Math.ceil((innerHeight - top) / height) + BEYOND);
    for (const [place, made] of rows) if (place < from || place >= to) { made.remove(); rows.delete(place); }
    for (let place = from; place < to; place++) {
      if (rows.has(place)) continue;
      const made = row(place);
      made.style.top = place * height + "px";
      rows.set(place, made);
      // In the order of the list, so that Tab and screen readers go through it from top to bottom.
      const after = [...rows.keys()].filter((other) => other > place);
      list.insertBefore(made, after.length ? rows.get(Math.min(...after)) : null);
    }
  };
  const measure = () => {
    for (const made of rows.values()) made.remove();
    rows = new Map();
    if (!chosen.length) { list.style.height = "0"; return; }
    const tallest = chosen.reduce((best, clip, place) => fullness(clip) > fullness(chosen[best]) ? place : best, 0);
    const probe = row(tallest);
    list.append(probe);
    height = probe.offsetHeight + GAP;
    probe.remove();
    list.style.height = chosen.length * height + "px";
    draw();
  };
  const fullness = (clip) => Number(data.picks[clip].every((picks) => picks.length > 0));

  const choose = () => {
    const emotion = at("emotion").value, tag = at("tag").value, differ = at("differ").value;
    const name = at("name").value.trim().toLowerCase();
    chosen = data.clips.map((_, clip) => clip).filter((clip) => {
      const [semantic, fused, adapter] = [0, 1, 2].map((system) => first(clip, system));
      return (!emotion || data.clips[clip][1] === emotion)
        && (!tag || [0, 1, 2].some((system) => imagesOf(clip, system).some((image) => data.images[image][1] === tag)))
        && (!name || data.clips[clip][0].toLowerCase().includes(name))
        && (differ !== "alpha" || fused !== semantic)
        && (differ !== "adapter" || adapter !== fused)
        && (differ !== "same" || (semantic === fused && fused === adapter));
    });
    const gap = { gain: [1, 0], loss: [1, 2] }[at("order").value];
    const difference = (clip) => firstT(clip, gap[0]) - firstT(clip, gap[1]);
    if (gap) chosen.sort((a, b) => difference(b) - difference(a) || a - b);
    at("found").textContent = chosen.length.toLocaleString("en") + (chosen.length === 1 ? " clip" : " clips");
    const above = list.getBoundingClientRect().top + scrollY;
    if (scrollY > above) scrollTo(0, above);
    measure();
  };

  const toggle = (clip) => {
    if (clip === playing && !audio.paused) { audio.pause(); return; }
    if (clip !== playing) { playing = clip; audio.src = data.clips[clip][3]; }
    at("playing").textContent = data.clips[clip][0];
    audio.play().catch(() => {});
  };
  const mark = () => {
    for (const [place, made] of rows)
      made.querySelector("button").setAttribute("aria-pressed", String(chosen[place] === playing && !audio.paused));
  };
  for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, mark);
  audio.addEventListener("error", () => {
    if (playing !== null) at("playing").textContent = data.clips[playing][0] + " cannot be played here";
  });

  let waits = false;
  const soon = (work) => () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => { waits = false; work(); });
  };
  addEventListener("scroll", soon(() => { if (chosen.length) draw(); }), { passive: true });
  addEventListener("resize", () => measure());
  for (const id of ["emotion", "tag", "differ", "order"]) at(id).addEventListener("change", choose);
  at("name").addEventListener("input", choose);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  choose();
}

// Leads a participant through the study: consent, instructions, volume, practice, trials, thanks.
//
// The page knows opaque ids only. Progress is saved in localStorage after every answer, so that a
// reopened tab resumes where it was. Answers are posted if the page was opened with a token in its
// address (`#token=…`), else they are downloaded at the end; so are those to earlier designs that this
// browser still keeps.
"use strict";
{
  const study = JSON.parse(document.getElementById("study").textContent);
  const at = (id) => document.getElementById(id);
  const LISTEN_S = 3;
  const KEPT = "emid-study-", KEY = KEPT + study.design;
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  const posts = Boolean(token) && location.protocol.startsWith("http");

  // What is kept

  const newParticipant = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return {
      participant: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
      language: preferredLanguage(), screen: "consent", place: 0, answers: [], delivered: [],
    };
  };
  const preferredLanguage = () => {
    const asked = new URLSearchParams(location.search).get("lang");
    const wanted = [asked, ...(navigator.languages || [])].filter(Boolean).map((code) => code.split("-")[0]);
    return wanted.find((code) => code in study.texts) || Object.keys(study.texts)[0];
  };
  let keeps = true;
  const stored = (key) => {
    try {
      const found = JSON.parse(localStorage.getItem(key));
      const isWhole = /^[0-9a-f]{32}$/.test(found.participant) && Array.isArray(found.answers)
        && Array.isArray(found.delivered);
      return isWhole ? found : null;
    } catch { return null; }
  };
  const store = (key, record) => {
    try { localStorage.setItem(key, JSON.stringify(record)); } catch { keeps = false; }
  };
  const before = stored(KEY);
  let state = before || newParticipant();
  const save = () => store(KEY, state);

  // One record for each design, and one for each person who left with answers unsent: this page's is first.
  const keys = () => {
    if (!keeps) return [KEY];
    try { return [KEY, ...Object.keys(localStorage).filter((key) => key.startsWith(KEPT) && key !== KEY)]; }
    catch { return [KEY]; }
  };
  const recordOf = (key) => key === KEY ? state : stored(key);
  for (const key of keys()) {  // what was refused is sent once more
    const record = recordOf(key), refused = record ? record.delivered.indexOf("refused") : -1;
    if (refused >= 0) { record.delivered.length = refused; store(key, record); }
  }
  save();

  // The participant's order: their id chooses the form and orders its trials.

  const shuffled = (items, seed) => {
    let a = seed >>> 0;
    const next = () => {  // splitmix32
      a = (a + 0x9e3779b9) >>> 0;
      let z = a;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return (z ^ (z >>> 15)) >>> 0;
    };
    const result = [...items];
    for (let last = result.length - 1; last > 0; last--) {
      const other = next() % (last + 1);
      [result[last], result[other]] = [result[other], result[last]];
    }
    return result;
  };
  const planOf = (participant) => {
    const form = study.forms[parseInt(participant.slice(0, 8), 16) % study.forms.length];
    const trials = shuffled(form, parseInt(participant.slice(8, 16), 16));
    const main = [];
    trials.forEach(([id, order], number) => {
      main.push({ id, order });
      // Checks are placed between the trials, as far apart as possible.
      study.checks.forEach(([check, wanted], place) => {
        if (number + 1 === Math.ceil(((place + 1) * trials.length) / (study.checks.length + 1)))
          main.push({ id: check, wanted });
      });
    });
    return study.practice.map((id) => ({ id, practice: true })).concat(main);
  };
  let plan = planOf(state.participant);
  if (state.place >= plan.length) state.screen = "thanks";

  // Words

  const text = (key, values = {}) =>
    study.texts[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const counted = () => plan.filter((step) => !step.practice).length;
  const words = {
    consent_what: () => ({ n: counted(), minutes: study.minutes }),
    consent_contact: () => ({ contact: study.contact }),
  };
  const speak = () => {
    document.documentElement.lang = state.language;
    document.title = text("title");
    for (const place of document.querySelectorAll("[data-text]")) {
      const key = place.dataset.text;
      place.textContent = text(key, words[key] ? words[key]() : {});
    }
    at("contact").hidden = !study.contact;
    at("language").value = state.language;
    at("progress").setAttribute("aria-label", text("progress"));
    at("played").setAttribute("aria-label", text("played"));
    if (state.screen === "trial") nameTrial();
    sayDelivery();
  };
  at("language").addEventListener("change", (event) => {
    state.language = event.target.value;
    save();
    speak();
  });

  // Screens

  const SCREENS = ["consent", "how", "volume", "trial", "thanks"];
  const show = (screen) => {
    state.screen = screen;
    save();
    for (const name of SCREENS) at(name).hidden = name !== screen;
    const done = screen === "thanks" ? plan.length : screen === "trial" ? state.place : 0;
    at("progress").value = done / plan.length;
    if (screen === "trial") startTrial();
    speak();
    at(screen).querySelector("h1").focus();
    scrollTo(0, 0);
  };
  const onward = (id, next) =>
    at(id).querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      next();
    });
  onward("consent", () => { at("said").textContent = ""; show("how"); });
  onward("how", () => show("volume"));

  // Volume: tones to be counted, so that whoever continues can hear.

  const tones = () => 2 + (parseInt(state.participant.slice(16, 20), 16) % 3);
  const RATE = 11025;
  // A WAV file, not an oscillator: it plays the way the clips do (phones may mute an oscillator).
  const toneFile = (count) => {
    const samples = new Uint8Array(Math.round(RATE * (0.2 + 0.7 * count))).map((_, place) => {
      const seconds = place / RATE - 0.2, within = seconds % 0.7;
      if (seconds < 0 || within > 0.4) return 128;
      const loudness = Math.min(1, within / 0.05, (0.4 - within) / 0.05);
      return 128 + Math.round(25 * loudness * Math.sin(2 * Math.PI * 440 * within));
    });
    const header = new DataView(new ArrayBuffer(44));
    const write = (place, letters) => [...letters].forEach((letter, n) => header.setUint8(place + n, letter.charCodeAt(0)));
    write(0, "RIFF"); write(8, "WAVEfmt "); write(36, "data");
    const numbers = [[4, 36 + samples.length], [16, 16], [20, 0x10001], [24, RATE], [28, RATE], [32, 0x80001], [40, samples.length]];
    for (const [place, value] of numbers) header.setUint32(place, value, true);
    const bytes = [...new Uint8Array(header.buffer), ...samples];
    return "data:audio/wav;base64," + btoa(bytes.map((byte) => String.fromCharCode(byte)).join(""));
  };
  const toneAudio = new Audio();
  at("tones").addEventListener("click", () => {
    toneAudio.src = toneFile(tones());
    toneAudio.play().catch(() => { at("volume-problem").textContent = text("media_failed"); });
  });
  onward("volume", () => {
    const right = Number(at("count").value) === tones();
    at("volume-problem").textContent = right ? "" : text("volume_wrong");
    toneAudio.pause();
    if (right) show("trial"); else at("count").focus();
  });

  // Trials

  const audio = at("audio");
  let shown = [], startedAt = null, heard = 0, lastTime = 0, answered = false;
  const step = () => plan[state.place];
  const startTrial = () => {
    const trial = study.trials[step().id];
    shown = (step().order || trial.options.map((_, place) => place)).map((place) => trial.options[place]);
    startedAt = null; heard = 0; lastTime = 0; answered = false;
    audio.src = study.media[trial.clip];
    at("played").value = 0;
    at("trial-problem").textContent = "";
    at("options").replaceChildren(...shown.map(([id, picture], place) => {
      const label = document.createElement("label"), input = document.createElement("input");
      const image = document.createElement("img"), number = document.createElement("span");
      Object.assign(input, { type: "radio", name: "picture", value: String(place) });
      image.src = study.media[picture];
      number.textContent = String(place + 1);
      number.setAttribute("aria-hidden", "true");
      label.append(input, image, number);
      return label;
    }));
    const next = plan[state.place + 1];
    if (next) for (const [, picture] of study.trials[next.id].options) new Image().src = study.media[picture];
  };
  const nameTrial = () => {
    const practice = plan.filter((one) => one.practice).length;
    const [heading, n, total] = step().practice
      ? ["practice_heading", state.place + 1, practice]
      : ["trial_heading", state.place + 1 - practice, counted()];
    at("trial-heading").textContent = text(heading, { n, total });
    at("trial-note").textContent = step().practice ? text("practice_text") : "";
    at("question").textContent = step().wanted ? text("check_text", { n: step().wanted }) : text("question");
    [...at("options").querySelectorAll("img")].forEach((image, place) => {
      image.alt = text("picture", { n: place + 1 });
    });
    namePlay();
  };
  const namePlay = () => { at("play").textContent = text(audio.paused ? "play" : "pause"); };
  const togglePlay = () => { if (audio.paused) audio.play().catch(failed); else audio.pause(); };
  const failed = () => {
    if (state.screen === "trial") at("trial-problem").textContent = text("media_failed");
  };
  at("play").addEventListener("click", togglePlay);
  audio.addEventListener("error", failed);
  audio.addEventListener("playing", () => { startedAt ??= performance.now(); });
  for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, namePlay);
  audio.addEventListener("timeupdate", () => {
    if (audio.currentTime > lastTime) heard += audio.currentTime - lastTime;
    lastTime = audio.currentTime;
    at("played").value = audio.duration ? audio.currentTime / audio.duration : 0;
  });
  const hasHeard = () => audio.ended || heard >= Math.min(LISTEN_S, 0.9 * study.trials[step().id].seconds);

  const answer = (chosen) => {
    if (answered) return;
    answered = true;
    const took = startedAt === null ? 0 : Math.round(performance.now() - startedAt);
    audio.pause();
    if (!step().practice)
      state.answers.push({
        design: study.design, participant: state.participant, trial: step().id,
        options: shown.map(([id]) => id), chosen, response_ms: Math.min(took, 3600000),
        language: state.language, answered_at: new Date().toISOString(),
      });
    state.place += 1;
    save();
    deliver();
    show(state.place < plan.length ? "trial" : "thanks");
  };
  onward("trial", () => {
    const chosen = at("options").querySelector(":checked");
    const problem = !hasHeard() ? "listen_first" : !chosen ? "choose_first" : "";
    at("trial-problem").textContent = problem && text(problem);
    if (!problem) answer(shown[Number(chosen.value)][0]);
  });
  at("skip").addEventListener("click", () => answer(null));
  document.addEventListener("keydown", (event) => {
    if (state.screen !== "trial" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select")) return;
    if (event.key.toLowerCase() === "p") togglePlay();
    else if (/^[1-9]$/.test(event.key) && Number(event.key) <= shown.length) {
      const input = at("options").querySelectorAll("input")[Number(event.key) - 1];
      input.checked = true;
      input.focus();
    } else return;
    event.preventDefault();
  });

  // Delivery

  let delivering = false, pause = 1000;
  const unsent = () => state.answers.length - state.delivered.filter((how) => how === "sent").length;
  const waiting = (record = state) => record ? record.answers.length - record.delivered.length : 0;
  const deliver = async () => {
    if (!posts || delivering) return;
    delivering = true;
    for (let key; (key = keys().find((one) => waiting(recordOf(one)) > 0));) {
      const { participant, answers, delivered: { length: number } } = recordOf(key);
      let status = 0;
      try {
        const reply = await fetch("answers", {
          method: "POST",
          headers: { "Content-Type": "application/json", Authorization: "Bearer " + token },
          body: JSON.stringify(answers[number]),
        });
        status = reply.status;
      } catch { /* no connection: retried below */ }
      if (status === 200 || status === 201) { note(key, participant, number, "sent"); pause = 1000; }
      else if (status >= 400 && status < 500 && status !== 429) note(key, participant, number, "refused");
      else {
        sayDelivery();
        await new Promise((resolve) => setTimeout(resolve, pause));
        pause = Math.min(2 * pause, 30000);
      }
    }
    delivering = false;
    sayDelivery();
  };
  const note = (key, participant, number, how) => {
    const record = recordOf(key);  // another tab may have changed it meanwhile
    if (!record || record.participant !== participant || record.delivered.length !== number) return;
    record.delivered.push(how);
    const isDone = record.delivered.length === record.answers.length && !record.delivered.includes("refused");
    if (key !== KEY && isDone) localStorage.removeItem(key);
    else store(key, record);
  };
  const sayDelivery = () => {
    if (state.screen !== "thanks") return;
    const words = !posts ? text("thanks_download")
      : waiting() ? text("thanks_sending", { n: waiting() })
      : unsent() ? text("thanks_unsent", { n: unsent() })
      : text("thanks_sent");
    if (at("delivery").textContent !== words) at("delivery").textContent = words;
  };
  at("download").addEventListener("click", () => {
    const all = keys().map(recordOf).filter(Boolean).flatMap((record) =>
      record.answers.filter((_, number) => record === state || record.delivered[number] !== "sent"));
    const content = JSON.stringify({ format: "emid-study-answers", answers: all });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    link.download = "answers-" + state.participant.slice(0, 8) + ".json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  at("again").addEventListener("click", () => {
    if (!confirm(text("again_confirm"))) return;
    if (posts && waiting()) store(KEY + "-" + state.participant, state);  // until they are sent
    state = newParticipant();
    plan = planOf(state.participant);
    for (const form of document.forms) form.reset();
    show("consent");
  });

  at("credits").replaceChildren(...study.credits.map((words) => {
    const item = document.createElement("li");
    item.textContent = words;
    return item;
  }));
  if (before && before.screen !== "consent") at("said").textContent = text("resumed");
  else if (!keeps) at("said").textContent = text("storage_failed");
  show(state.screen);
  deliver();
}

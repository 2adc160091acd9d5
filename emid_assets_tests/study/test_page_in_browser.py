"""The participants' page in a real Chromium: whole participations, on a phone too, and nothing told."""

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS
from emid_assets.store.layout import ANSWERS_STORE
from emid_assets.study.answers import AnswerStore, read_answer_files
from emid_assets.study.design import CONDITIONS
from emid_assets.study.page import forget_media, write_page
from emid_assets.study.texts import LANGUAGES, load_texts
from emid_assets_tests.study.conftest import COLOURS, EMOTIONS, TRIALS, Study, copy_of, music, pictures
from emid_assets_tests.study.served import Server
from emid_assets_tests.study.test_server import PREFERENCE, wilson
from emid_assets_tests.web import wait_for

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
STEPS = 2 + TRIALS + 3
NEAREST = """async (images, colour) => {
  const distances = [];
  for (const image of images) {
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const paper = canvas.getContext("2d");
    paper.drawImage(image, 0, 0, 1, 1);
    const seen = paper.getImageData(0, 0, 1, 1).data;
    distances.push(colour.reduce((sum, value, channel) => sum + (value - seen[channel]) ** 2, 0));
  }
  return distances.indexOf(Math.min(...distances));
}"""
SEEN_AS = {**COLOURS, "random": (85, 85, 85)}
"""What participants go by: they see colours, not conditions."""


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page in a context of its own; a test fails where the page's script did."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_page(url: str, **options: Any) -> Any:
        context = browser.new_context(locale=options.pop("locale", "en-GB"), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def agree_and_set_the_volume(page: Any) -> None:
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Play").click()
    for count in (2, 3, 4):  # a participant counts; this one tries
        if page.is_visible("#volume"):
            page.get_by_label("Number of tones").fill(str(count))
            page.get_by_role("button", name="Continue").click()
    page.wait_for_selector("#trial:visible")


def answer_one(page: Any, condition: str = "fused") -> None:
    """Listen, and choose the picture that looks like the condition's, or that a line tells to choose."""
    heading = page.inner_text("#trial-heading")
    told = re.search(r"picture (\d)", page.inner_text("#question"))
    place = (
        int(told[1])
        if told
        else 1
        + page.eval_on_selector_all(
            "#options img", f"(images) => ({NEAREST})(images, {list(SEEN_AS[condition])})"
        )
    )
    page.click("#play")
    page.wait_for_function("() => document.getElementById('audio').ended")
    page.locator("#options label").nth(place - 1).click()
    page.get_by_role("button", name="Continue").click()
    page.wait_for_function("(before) => document.getElementById('trial-heading').textContent !== before "
                           "|| !document.getElementById('thanks').hidden", arg=heading)  # fmt: skip


def answer_all(page: Any) -> None:
    for _ in range(STEPS):
        if page.is_visible("#thanks"):
            return
        answer_one(page)
    assert page.is_visible("#thanks")


def downloaded(page: Any, folder: Path) -> None:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download my answers").click()
    download.value.save_as(folder / download.value.suggested_filename)


def test_on_a_phone_from_a_file_the_known_preference_comes_back_in_the_download(
    study: Study, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    folder = tmp_path / "a folder #1"
    shutil.copytree(study.page.parent, folder)
    page = open_page((folder / "index.html").as_uri(), **PHONE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        sizes = page.eval_on_selector_all(
            "button:not(.plain), select, #options label",
            "all => all.filter(one => one.checkVisibility()).map(one => one.getBoundingClientRect().height)",
        )
        assert min(sizes) >= 44

    fits()
    agree_and_set_the_volume(page)
    fits()
    answer_all(page)
    fits()
    assert "Please download your answers" in page.inner_text("#delivery")
    downloaded(page, tmp_path / "sent")
    answers, refused = read_answer_files(tmp_path / "sent", {study.design.hash: study.design})
    assert refused == []
    assert answers.height == TRIALS + 3
    counted = answers.filter(~answers["is_attention_check"])
    assert counted["chosen_condition"].to_list() == ["fused"] * TRIALS
    assert answers.filter("is_attention_check")["attention_passed"].all()
    assert set(counted["chosen_position"]) == {1, 2, 3, 4}  # its place was balanced
    assert counted["response_ms"].is_between(200, 60_000).all()
    assert [address for address in asked if not address.startswith(("data:", "blob:"))] == []


def test_a_closed_tab_goes_on_where_it_was_and_a_killed_server_loses_nothing(
    study: Study,
    tmp_path: Path,
    open_page: Callable[..., Any],
    serve: Callable[..., Server],
) -> None:
    server = serve(copy_of(study, tmp_path))
    page = open_page(server.link)
    agree_and_set_the_volume(page)
    for _ in range(2 + 3):
        answer_one(page)
    heading = page.inner_text("#trial-heading")
    context = page.context
    page.close()

    server.kill()
    page = context.new_page()
    server.start()
    page.goto(server.link)
    assert page.inner_text("#trial-heading") == heading
    assert "go on where you stopped" in page.inner_text("#said")
    answer_one(page)
    server.kill()  # while answers go on: the page keeps them and sends them again
    for _ in range(2):
        answer_one(page)
    server.start()
    answer_all(page)
    page.get_by_text("Your answers have arrived").wait_for()
    page.reload()
    assert page.is_visible("#thanks")
    assert server.stop() == 0
    stored = AnswerStore(server.study.folder / ANSWERS_STORE).read()
    assert stored.height == TRIALS + 3
    assert stored["participant_id"].n_unique() == 1
    assert set(stored["chosen_condition"].drop_nulls()) == {"fused"}


def answers_kept(page: Any) -> int:
    """How many answers this browser keeps that are not sent."""
    count = """() => Object.values(localStorage).filter((text) => text.includes("answers"))
        .map((text) => JSON.parse(text))
        .flatMap(({ answers, delivered }) => answers.filter((_, n) => delivered[n] !== "sent")).length"""
    return int(page.evaluate(count))


def test_answers_to_an_earlier_design_and_of_an_earlier_person_are_sent_to_their_own_design(
    study: Study, tmp_path: Path, open_page: Callable[..., Any], serve: Callable[..., Server]
) -> None:
    server = serve(copy_of(study, tmp_path))
    page = open_page(server.link)
    agree_and_set_the_volume(page)
    server.kill()
    for _ in range(2 + 3):
        page.locator("#skip").click()
    assert answers_kept(page) == 3
    page.evaluate(
        """() => {  // what a page of this design leaves where another person begins before all is sent
        const key = Object.keys(localStorage)[0], left = JSON.parse(localStorage[key]);
        localStorage["emid-study-broken"] = "{";
        localStorage["emid-study-none"] = "null";
        localStorage["emid-study-refused"] = JSON.stringify({ participant: left.participant, screen: "trial",
          answers: [{ ...left.answers[0], design: "0123456789abcdef" }], delivered: [] }); }"""
    )

    facts = {**study.design.facts, "seed": 99}
    new = replace(study.design, facts=facts)
    (server.study.folder / "designs" / f"{new.hash}.json").write_text(new.to_json(), encoding="utf-8")
    images = pictures(sorted({option.image_id for trial in new.trials for option in trial.options}))
    write_page(new, music(20), images, study.media, server.study.page.parent, seconds=10.0, embed_bytes=10**7)
    server.start()
    page.goto("about:blank")  # the same address but for what follows #, which alone loads nothing
    page.goto(server.link)
    assert page.is_visible("#consent")
    stored = AnswerStore(server.study.folder / ANSWERS_STORE)
    wait_for(lambda: stored.read().height == 3, "the answers to the earlier design", 60)
    wait_for(lambda: answers_kept(page) == 1, "the one that is refused", 60)
    assert set(stored.read()["design_hash"]) == {study.design.hash}

    agree_and_set_the_volume(page)
    server.kill()
    for _ in range(STEPS):
        page.locator("#skip").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Another person").click()
    server.start()
    page.reload()
    wait_for(lambda: stored.read().height == 3 + TRIALS + 3, "the answers of the person before", 60)
    assert server.stop() == 0
    answers = stored.read()
    assert answers["participant_id"].n_unique() == 2
    assert answers.filter(design_hash=new.hash).height == TRIALS + 3


@pytest.mark.parametrize("people", [3, pytest.param(20, marks=pytest.mark.heavy)])
def test_browsers_at_once_with_media_beside_the_page_bring_the_known_preference_back(
    study: Study,
    tmp_path: Path,
    open_page: Callable[..., Any],
    serve: Callable[..., Server],
    people: int,
) -> None:
    served = copy_of(study, tmp_path)
    images = pictures(sorted({option.image_id for trial in study.design.trials for option in trial.options}))
    written = write_page(
        study.design, music(20), images, study.media, served.page.parent, seconds=10.0, embed_bytes=0
    )
    assert written.media_files > 10
    server = serve(served)
    rng = np.random.default_rng(6)
    pages = [open_page(server.link) for _ in range(people)]
    for page in pages:
        agree_and_set_the_volume(page)
    for _ in range(STEPS):
        for page in pages:
            answer_one(page, rng.choice(CONDITIONS, p=[PREFERENCE[name] for name in CONDITIONS]))
    for page in pages:
        page.get_by_text("Your answers have arrived").wait_for()
    assert server.stop() == 0
    stored = AnswerStore(served.folder / ANSWERS_STORE).read()
    assert stored.height == people * (TRIALS + 3)
    assert stored["participant_id"].n_unique() == people
    assert stored["attention_passed"].drop_nulls().all()
    chosen = Counter(stored["chosen_condition"].drop_nulls())
    assert chosen.total() == people * TRIALS
    for condition, probability in PREFERENCE.items():
        low, high = wilson(chosen[condition], chosen.total())
        assert low <= probability <= high, condition


COUNT_TONES = """async () => {
  const bytes = Uint8Array.from(atob(window.played.split(",")[1]), (letter) => letter.charCodeAt(0));
  const sound = await new OfflineAudioContext(1, 1, 11025).decodeAudioData(bytes.buffer);
  const samples = sound.getChannelData(0);
  let tones = 0, quietSince = -1e9;
  samples.forEach((value, place) => {
    if (Math.abs(value) < 0.02) return;
    if (place - quietSince > 0.1 * sound.sampleRate) tones += 1;
    quietSince = place;
  });
  return tones;
}"""


def test_the_tones_of_the_volume_check_can_be_counted_and_another_number_is_not_taken(
    study: Study, open_page: Callable[..., Any]
) -> None:
    page = open_page(study.page.as_uri())
    page.evaluate(
        """() => { const sounds = HTMLMediaElement.prototype, play = sounds.play;
        sounds.play = function () { window.played = this.src; return play.call(this); } }"""
    )
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Play").click()
    tones = page.evaluate(COUNT_TONES)
    assert tones in (2, 3, 4)
    for count in (tones - 1, tones + 1):
        page.get_by_label("Number of tones").fill(str(count))
        page.get_by_role("button", name="Continue").click()
        assert "That is not the number" in page.inner_text("#volume-problem")
    page.get_by_label("Number of tones").fill(str(tones))
    page.get_by_role("button", name="Continue").click()
    assert page.is_visible("#trial")


def test_it_can_be_done_by_keyboard_alone(study: Study, open_page: Callable[..., Any]) -> None:
    page = open_page(study.page.as_uri())
    press = page.keyboard.press

    def tab_to(text: str) -> None:
        for _ in range(12):
            press("Tab")
            if page.evaluate("document.activeElement.textContent || document.activeElement.type") == text:
                return
        raise AssertionError(f"Tab does not reach {text}")

    tab_to("checkbox")
    press("Space")
    press("Enter")
    page.wait_for_selector("#how:visible")
    tab_to("Continue")
    press("Enter")
    tab_to("Play")
    press("Enter")
    tab_to("number")
    for count in "234":
        if page.is_visible("#volume"):
            page.keyboard.type(count)
            press("Enter")
            if page.is_visible("#volume"):
                press("Backspace")
    page.wait_for_selector("#trial:visible")
    assert page.evaluate("document.activeElement.id") == "trial-heading"
    press("3")
    press("Enter")
    assert page.inner_text("#trial-problem") == "Please listen first."
    press("p")
    page.wait_for_function("() => document.getElementById('audio').ended")
    heading = page.inner_text("#trial-heading")
    press("Enter")
    page.wait_for_function(
        "(was) => document.getElementById('trial-heading').textContent !== was", arg=heading
    )


def test_a_screen_reader_hears_numbers_and_what_to_do(study: Study, open_page: Callable[..., Any]) -> None:
    page = open_page(study.page.as_uri())
    assert page.evaluate("document.documentElement.lang") == "en"
    agree_and_set_the_volume(page)
    assert page.get_by_role("group", name="Which picture fits best what the music feels like?").count() == 1
    for number in (1, 2, 3, 4):
        assert page.get_by_role("radio", name=f"Picture {number}", exact=True).count() == 1
    assert page.get_by_role("progressbar", name="Progress").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1


def test_who_cannot_hear_a_clip_skips_it_and_it_counts_as_missing(
    study: Study, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    page = open_page(study.page.as_uri())
    agree_and_set_the_volume(page)
    for _ in range(STEPS):
        page.locator("#skip").click()
    downloaded(page, tmp_path)
    answers, refused = read_answer_files(tmp_path, {study.design.hash: study.design})
    assert (answers.height, refused) == (TRIALS + 3, [])
    assert answers["chosen_position"].null_count() == TRIALS + 3
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Another person").click()
    assert page.is_visible("#consent")
    assert page.evaluate("JSON.parse(Object.values(localStorage)[0]).answers.length") == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_whole_and_can_be_chosen(
    study: Study, open_page: Callable[..., Any], language: str
) -> None:
    texts = load_texts()[language]
    page = open_page(study.page.as_uri(), locale=f"{language}-XX")
    assert page.inner_text("#consent h1") == texts["consent_heading"]
    assert page.title() == texts["title"]
    assert "{" not in page.inner_text("body")
    other = next(one for one in LANGUAGES if one != language)
    page.select_option("#language", other)
    assert page.inner_text("#consent h1") == load_texts()[other]["consent_heading"]
    page.reload()
    assert page.evaluate("document.documentElement.lang") == other


def test_texts_name_the_same_values_in_every_language() -> None:
    named = [
        {key: set(re.findall(r"\{\w+\}", text)) for key, text in texts.items()}
        for texts in load_texts().values()
    ]
    assert all(one == named[0] for one in named)


def strings(thing: Any) -> Iterator[str]:
    if isinstance(thing, dict):
        yield from thing
        thing = list(thing.values())
    if isinstance(thing, list):
        for part in thing:
            yield from strings(part)
    elif isinstance(thing, str):
        yield thing


def test_nothing_that_the_page_holds_tells_a_condition_an_emotion_or_a_name(
    study: Study, tmp_path: Path
) -> None:
    names = sorted({option.image_id for trial in study.design.trials for option in trial.options})
    for embed_bytes in (0, 10**7):
        page = write_page(
            study.design, music(20), pictures(names), study.media, tmp_path / str(embed_bytes),
            seconds=10.0, embed_bytes=embed_bytes,
        ).path  # fmt: skip
        content = page.read_text(encoding="utf-8")
        found = re.search(r'<script type="application/json" id="study">(.*?)</script>', content, re.DOTALL)
        assert found is not None
        data = json.loads(found[1])
        held = {text for text in strings({k: v for k, v in data.items() if k not in ("texts", "credits")})
                if not text.startswith("data:")}  # fmt: skip
        files = {file.name for file in page.parent.rglob("*")}
        telling = [*CONDITIONS, *EMOTIONS, *IMAGE_EMOTION_KEYS, "clip-0", "grey", "bmf"]
        for text in held | files:
            assert not any(word in text for word in telling), text
        assert len(held) > 50


def test_equal_inputs_give_the_same_bytes_and_a_lost_file_is_named(study: Study, tmp_path: Path) -> None:
    images = pictures(sorted({option.image_id for trial in study.design.trials for option in trial.options}))
    arguments: dict[str, Any] = {"seconds": 10.0, "embed_bytes": 10**7}
    first, second = (
        write_page(study.design, music(20), images, study.media, tmp_path / name, **arguments).path
        for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()
    assert sorted(file.name for file in first.parent.iterdir()) == ["index.html"]
    with pytest.raises(ValueError, match="no longer in the media folder"):
        write_page(study.design, music(20), images, tmp_path, tmp_path / "c", **arguments)
    assert list((tmp_path / "c").iterdir()) == []


def test_media_that_the_page_no_longer_shows_are_deleted_a_day_after_it_was_written(
    study: Study, tmp_path: Path
) -> None:
    folder, options = tmp_path / "page", {"seconds": 10.0, "embed_bytes": 0}
    images = pictures(sorted({option.image_id for trial in study.design.trials for option in trial.options}))
    page = write_page(study.design, music(20), images, study.media, folder, **options).path
    shown = set((folder / "media").iterdir())
    earlier, arriving = folder / "media" / "earlier.jpg", folder / "media" / "arriving.jpg"
    for file in (earlier, arriving):
        file.write_bytes(b"of another page")
    for file in (earlier, *shown):
        os.utime(file, (time.time() - 2 * 86_400,) * 2)
    assert forget_media(folder, 86_400) == 0  # somebody may have the page before open
    os.utime(page, (time.time() - 2 * 86_400,) * 2)
    assert forget_media(folder, 86_400) == 1
    assert set((folder / "media").iterdir()) == shown | {arriving}
    assert forget_media(tmp_path / "no study", 86_400) == 0

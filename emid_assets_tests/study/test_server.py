"""The server as participants meet it: real processes, twenty clients at once, and a kill in between."""

import http.client
import json
import math
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emid_assets.store.layout import ANSWERS_STORE
from emid_assets.study.answers import AnswerStore
from emid_assets.study.design import CONDITIONS, Design
from emid_assets.study.server import RateLimit, token_of
from emid_assets_tests.conftest import clean_environment
from emid_assets_tests.study.conftest import Study, copy_of, participant, sent, trials_of
from emid_assets_tests.study.served import DEADLINE_S, Server

PREFERENCE = {"semantic": 0.20, "fused": 0.45, "adapter": 0.25, "random": 0.10}
PARTICIPANTS = 20


@pytest.fixture(scope="module")
def server(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the tests that only send."""
    running = Server(copy_of(study, tmp_path_factory.mktemp("served")), ("--rate", "100000")).start()
    yield running
    running.kill()


def preferring(rng: np.random.Generator, design: Design, who: str, trial_id: str) -> dict[str, Any]:
    """An answer of somebody who chooses conditions with the known probabilities, and reads checks."""
    trial = design.by_id[trial_id]
    screen = design.screen_of(who, trial)
    assert screen is not None
    if trial.wanted is not None:
        return sent(design, who, trial_id, chosen=screen[trial.wanted - 1].option_id)
    condition = rng.choice(CONDITIONS, p=[PREFERENCE[name] for name in CONDITIONS])
    chosen = next(option.option_id for option in screen if option.condition == condition)
    return sent(design, who, trial_id, chosen=chosen, response_ms=int(rng.integers(3000, 20000)))


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a proportion (1927)."""
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return centre - half, centre + half


def test_twenty_at_once_with_a_kill_in_between_lose_nothing_and_the_known_effect_comes_back(
    study: Study, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(copy_of(study, tmp_path), "--rate", "100000")
    design = study.design
    acknowledged: list[tuple[str, str]] = []
    sent_all: dict[tuple[str, str], Any] = {}
    statuses: Counter[int] = Counter()
    lock, killed = threading.Lock(), threading.Event()

    def take_part(number: int) -> None:
        who, rng = participant(number), np.random.default_rng([number, 77])
        for trial_id in rng.permutation(trials_of(design, who)):
            answer = preferring(rng, design, who, str(trial_id))
            with lock:
                sent_all[who, str(trial_id)] = answer
            end = time.monotonic() + DEADLINE_S
            while time.monotonic() < end:
                try:
                    status, _ = server.post(answer)
                except (OSError, http.client.HTTPException):
                    killed.wait(0.05)  # the server is gone: as a page does, wait a little and send again
                    continue
                with lock:
                    statuses[status] += 1
                if status in (200, 201):
                    with lock:
                        acknowledged.append((who, str(trial_id)))
                    break

    people = [threading.Thread(target=take_part, args=(number,)) for number in range(PARTICIPANTS)]
    for person in people:
        person.start()
    expected = PARTICIPANTS * len(trials_of(design, participant(0)))
    for part in (1, 2):  # killed twice, at a third and at two thirds
        end = time.monotonic() + DEADLINE_S
        while len(acknowledged) < part * expected // 3 and time.monotonic() < end:
            time.sleep(0.005)
        server.kill()
        with lock:
            before = set(acknowledged)
        kept = AnswerStore(server.study.folder / ANSWERS_STORE).read()
        assert before <= set(kept.select("participant_id", "trial_id").rows())
        server.start()
    for person in people:
        person.join(DEADLINE_S)
    assert server.stop() == 0

    assert len(acknowledged) == expected
    assert set(statuses) <= {200, 201}
    stored = AnswerStore(server.study.folder / ANSWERS_STORE).read()
    assert stored.height == expected
    for row in stored.iter_rows(named=True):
        answer = sent_all[row["participant_id"], row["trial_id"]]
        assert answer["options"].index(answer["chosen"]) + 1 == row["chosen_position"]
        assert answer["response_ms"] == row["response_ms"]
    checks = stored.filter("is_attention_check")
    assert checks.height == 3 * PARTICIPANTS
    assert checks["attention_passed"].all()
    chosen = Counter(stored.filter(~stored["is_attention_check"])["chosen_condition"])
    for condition, probability in PREFERENCE.items():
        low, high = wilson(chosen[condition], chosen.total())
        assert low <= probability <= high, condition


def test_the_page_is_handed_out_and_nothing_else_of_the_study(server: Server) -> None:
    root = f"http://127.0.0.1:{server.port}"
    with urllib.request.urlopen(root + "/", timeout=30) as reply:
        assert reply.read() == server.study.page.read_bytes()
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in reply.headers
    designs = f"designs/{server.study.design.hash}.json"
    for path in (
        designs,
        f"../{designs}",
        f"%2e%2e/{designs}",
        "token",
        "../token",
        "answers.duckdb",
        "answers",
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{root}/{path}", timeout=30)
        assert refused.value.code in (404, 405)


def test_without_the_token_nothing_is_taken(server: Server) -> None:
    answer = sent(server.study.design, participant(50), trials_of(server.study.design, participant(50))[0])
    assert server.post(answer, token="")[0] == 401
    assert server.post(answer, token=server.token[:-1])[0] == 401
    assert server.post(answer)[0] == 201


def test_a_repetition_is_the_same_answer_and_another_answer_to_the_trial_is_refused(server: Server) -> None:
    design, who = server.study.design, participant(51)
    answer = sent(design, who, trials_of(design, who)[0])
    assert server.post(answer) == (201, "stored")
    assert server.post(answer) == (200, "repeated")
    assert server.post({**answer, "chosen": answer["options"][1]}) == (409, "conflict")
    stored = AnswerStore(server.study.folder / ANSWERS_STORE).read()
    assert stored.filter(participant_id=who)["chosen_position"].to_list() == [1]


def test_forged_and_out_of_design_answers_are_refused(server: Server) -> None:
    design, who = server.study.design, participant(52)
    trial, other = trials_of(design, who)[:2]
    answer = sent(design, who, trial)
    forged = [
        {**answer, "options": answer["options"][::-1]},
        {**answer, "trial": other},
        {**answer, "chosen": sent(design, who, other)["chosen"]},
        {**answer, "design": "0" * 16},
        {**answer, "participant": "../../etc/passwd"},
        {**answer, "chosen_condition": "fused"},
        {**answer, "response_ms": "fast"},
        [answer],
        None,
    ]
    assert [server.post(thing)[0] for thing in forged] == [422] * len(forged)
    for body in (b"", b"{", b"\xff", b"[" * 4000):
        assert server.post(None, body=body)[0] == 400
    assert server.post(None, body=json.dumps({**answer, "more": "x" * 5000}).encode())[0] == 413
    assert AnswerStore(server.study.folder / ANSWERS_STORE).read().filter(participant_id=who).is_empty()


def test_a_study_that_is_designed_anew_while_it_is_served_is_taken_too(server: Server) -> None:
    old = server.study.design
    new = replace(old, facts={**old.facts, "seed": 99})
    who = participant(53)
    answer = sent(new, who, trials_of(new, who)[0])
    assert server.post(answer)[0] == 422
    (server.study.folder / "designs" / f"{new.hash}.json").write_text(new.to_json(), encoding="utf-8")
    assert server.post(answer)[0] == 201
    assert server.post(sent(old, participant(54), trials_of(old, participant(54))[0]))[0] == 201


def test_too_many_answers_of_one_address_are_turned_away(
    study: Study, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    limited = serve(copy_of(study, tmp_path), "--rate", "3", "--participants", "1")
    first, second = participant(60), participant(61)
    answers = [sent(study.design, who, trials_of(study.design, who)[0]) for who in (first, second)]
    assert [limited.post(answer)[0] for answer in answers] == [201, 429]
    assert limited.post(None)[0] == 422
    assert limited.post(answers[0]) == (429, "too many answers from this address; wait a minute")


def test_a_rate_is_counted_for_each_address_and_begins_anew_after_a_minute() -> None:
    now = 0.0
    limit = RateLimit(2, lambda: now)
    assert [limit.allows("a") for _ in range(3)] == [True, True, False]
    assert limit.allows("b")
    now = 59.0
    assert not limit.allows("a")
    now = 60.0
    assert limit.allows("a")


def test_the_token_stays_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    token = token_of(tmp_path / "study")
    assert len(token) >= 24
    assert token_of(tmp_path / "study") == token
    assert (tmp_path / "study" / "token").stat().st_mode & 0o777 == 0o600


def test_without_a_study_the_command_says_what_to_do(tmp_path: Path, study: Study) -> None:
    command = [sys.executable, "-m", "emid_assets", "study", "serve", "--media", str(study.media)]
    finished = subprocess.run(
        [*command, "--lake", str(tmp_path / "empty")],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    assert finished.returncode == 1
    assert "has no study: run `emid build`" in finished.stderr
    short = subprocess.run(
        [*command, "--lake", str(study.lake), "--token", "abc"], capture_output=True, text=True, check=False,
        env=clean_environment(),
    )  # fmt: skip
    assert short.returncode == 2
    assert "at least 8 characters" in short.stderr

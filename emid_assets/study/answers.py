"""Answers of the listening study: checked against the design, and kept in DuckDB.

Belongs here: what an answer must be, files of answers, and the file that the server writes. Who may
send answers, and how many, is `server`.
"""

import contextlib
import json
import os
import re
import reprlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import filelock
import polars as pl

from emid_assets.store.layout import DESIGNS_FOLDER
from emid_assets.store.schemas import STUDY_ANSWERS
from emid_assets.study.design import Design, StudyError, read_design
from emid_assets.study.texts import LANGUAGES

FILE_FORMAT = "emid-study-answers"
MOST_FILE_BYTES = 2_000_000
MOST_RESPONSE_MS = 3_600_000
_KEYS = {"design", "participant", "trial", "options", "chosen", "response_ms", "language", "answered_at"}
_HASH = re.compile(r"[0-9a-f]{16}")
_PARTICIPANT = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
_LOCK_TIMEOUT_S = 60.0

Outcome = Literal["stored", "repeated", "conflict", "full"]


class AnswerError(ValueError):
    """What was sent is not an answer to a trial of a design; the message says what is wrong."""


class DesignFiles(Mapping[str, Design]):
    """Every design that was ever handed out from a study folder, by hash; also those added later.

    Args:
        study: the study folder.
    """

    def __init__(self, study: Path) -> None:
        self._folder = study / DESIGNS_FOLDER
        self._read: dict[str, Design] = {}

    def __getitem__(self, design_hash: str) -> Design:
        """The design; a KeyError where there is none.

        Raises:
            StudyError: its file is not a design; names the file.
        """
        if design_hash not in self._read:
            file = self._folder / f"{design_hash}.json"
            if not _HASH.fullmatch(design_hash) or not file.is_file():
                raise KeyError(design_hash)
            try:
                self._read[design_hash] = read_design(file.read_text(encoding="utf-8"))
            except (StudyError, OSError) as error:
                raise StudyError(f"{file}: {error}; restore it from a backup") from None
        return self._read[design_hash]

    def __iter__(self) -> Iterator[str]:
        return (file.stem for file in sorted(self._folder.glob("*.json")) if _HASH.fullmatch(file.stem))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def readable(self) -> tuple[list[Design], list[str]]:
        """Those that can be read, and what is wrong with each of the others."""
        designs, damaged = [], []
        for design_hash in self:
            try:
                designs.append(self[design_hash])
            except StudyError as error:
                damaged.append(str(error))
        return designs, damaged


def decode_answer(sent: object, designs: Mapping[str, Design]) -> dict[str, Any]:
    """A row of STUDY_ANSWERS from what a page sent.

    A page knows no conditions: it sends opaque ids in the order of its screen. They are accepted
    only if they are what the design shows to this participant.

    Args:
        sent: decoded JSON: design, participant, trial, options (ids in screen order), chosen (an id,
            or null where the participant could not hear or see), response_ms, language, answered_at.
        designs: by hash.

    Raises:
        AnswerError: a field is missing, unknown, of the wrong type or not in the design.
    """
    if not isinstance(sent, dict) or set(sent) != _KEYS:
        raise AnswerError(f"an answer must have exactly the fields {', '.join(sorted(_KEYS))}")
    for name in sorted(_KEYS - {"options", "chosen", "response_ms"}):
        if not isinstance(sent[name], str):
            raise AnswerError(f"{name} must be text")
    design = designs.get(sent["design"])
    if design is None:
        raise AnswerError(f"there is no design {_shown(sent['design'])}")
    if not _PARTICIPANT.fullmatch(sent["participant"]):
        raise AnswerError("participant must be 32 hexadecimal digits")
    trial = design.by_id.get(sent["trial"])
    if trial is None or trial.kind == "practice":
        raise AnswerError(f"the design has no trial {_shown(sent['trial'])}")
    screen = design.screen_of(sent["participant"], trial)
    if screen is None:
        raise AnswerError(f"trial {trial.trial_id} is not one of this participant's")
    ids = [option.option_id for option in screen]
    if sent["options"] != ids:
        raise AnswerError(f"trial {trial.trial_id} shows this participant other images, or in another order")
    chosen = sent["chosen"]
    if chosen is not None and chosen not in ids:
        raise AnswerError(f"trial {trial.trial_id} has no image {_shown(chosen)}")
    took = sent["response_ms"]
    if type(took) is not int or not 0 <= took <= MOST_RESPONSE_MS:
        raise AnswerError(f"response_ms must be a whole number from 0 to {MOST_RESPONSE_MS}")
    if sent["language"] not in LANGUAGES:
        raise AnswerError(f"language must be one of {', '.join(LANGUAGES)}")
    position = None if chosen is None else ids.index(chosen) + 1
    is_check = trial.kind == "check"
    return {
        "participant_id": sent["participant"],
        "trial_id": trial.trial_id,
        "clip_id": trial.clip_id,
        "emotion": trial.emotion,
        "conditions": [] if is_check else [option.condition for option in screen],
        "chosen_condition": None if position is None or is_check else screen[position - 1].condition,
        "chosen_position": position,
        "response_ms": took,
        "is_attention_check": is_check,
        "attention_passed": position == trial.wanted if is_check else None,
        "language": sent["language"],
        "answered_at": _time(sent["answered_at"]),
        "design_hash": design.hash,
    }


def answers_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """STUDY_ANSWERS from rows of `decode_answer`."""
    return STUDY_ANSWERS.check(pl.DataFrame(rows, schema=STUDY_ANSWERS.empty().schema))


def read_answer_files(
    folder: Path, designs: Mapping[str, Design]
) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
    """The answers in the files that participants downloaded and sent; each is judged alone.

    Args:
        folder: every `*.json` below it is read; it need not exist.
        designs: by hash.

    Returns:
        STUDY_ANSWERS rows, and (where, reason) of each file or answer that was refused.
    """
    rows: list[dict[str, Any]] = []
    refused: list[tuple[str, str]] = []
    for file in sorted(folder.rglob("*.json")):
        name = os.fsencode(file.relative_to(folder)).decode("utf-8", "backslashreplace")
        try:
            for number, sent in enumerate(_answers_of(file), start=1):
                try:
                    rows.append(decode_answer(sent, designs))
                except (AnswerError, StudyError) as error:  # the design may be damaged
                    refused.append((f"{name}, answer {number}", str(error)))
        except AnswerError as error:
            refused.append((name, str(error)))
    return answers_frame(rows), refused


def merge_answers(first: pl.DataFrame, second: pl.DataFrame) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
    """Both merged, with one answer for each participant and trial: equal repetitions count once.

    Where two answers to one trial differ, the one in `first` is kept, else the earlier one; the other is
    refused.

    Args:
        first: STUDY_ANSWERS, such as the server's.
        second: STUDY_ANSWERS, such as those of files.

    Returns:
        STUDY_ANSWERS by participant and time, and (where, reason) of each that was refused.
    """
    key = ["participant_id", "trial_id"]
    both = (
        pl.concat([first.with_columns(source=0), second.with_columns(source=1)])
        .unique(subset=[*STUDY_ANSWERS.columns], keep="first", maintain_order=True)
        .sort("source", "answered_at", *key)
    )
    kept = both.unique(subset=key, keep="first", maintain_order=True)
    refused = [
        (f"participant {participant}, trial {trial}", "there is already another answer to this trial")
        for participant, trial in both.join(kept, on=both.columns, how="anti", nulls_equal=True)
        .select(key)
        .rows()
    ]
    return kept.select(list(STUDY_ANSWERS.columns)).sort("participant_id", "answered_at", "trial_id"), refused


class AnswerStore:
    """The server's answers in one DuckDB file, which is open only while it is read or written.

    So an asset, or a person with DuckDB's command line, can read it while the server runs. `add` returns
    when the answers are on the disk: a process killed after that loses none.

    Args:
        path: the file; the first write creates it.
        most_participants: answers of further participants are refused.
    """

    def __init__(self, path: Path, most_participants: int = 10_000) -> None:
        self.path = path
        self.most_participants = most_participants

    def add(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """Store answers, all in one transaction.

        Returns:
            For each row: `stored`; `repeated` where the same answer is there already; `conflict`
            where the participant has answered the trial differently; `full` where the study has
            `most_participants` already.

        Raises:
            duckdb.Error: another program keeps the file open, or the disk failed.
            filelock.Timeout: another process of this program does.
        """
        names = list(STUDY_ANSWERS.columns)
        outcomes: list[Outcome] = []
        with self._open() as connection:
            connection.begin()
            known = {
                row[0] for row in connection.execute("SELECT DISTINCT participant_id FROM answers").fetchall()
            }
            for row in rows:
                found = connection.execute(
                    f"SELECT {', '.join(_IDENTITY)} FROM answers WHERE participant_id = ? AND trial_id = ?",
                    [row["participant_id"], row["trial_id"]],
                ).fetchone()
                if found is not None:
                    same = found == tuple(row[name] for name in _IDENTITY)
                    outcomes.append("repeated" if same else "conflict")
                elif row["participant_id"] not in known and len(known) >= self.most_participants:
                    outcomes.append("full")
                else:
                    known.add(row["participant_id"])
                    connection.execute(
                        f"INSERT INTO answers VALUES ({', '.join('?' * len(names))})",
                        [row[name] for name in names],
                    )
                    outcomes.append("stored")
            connection.commit()
        return outcomes

    def read(self) -> pl.DataFrame:
        """STUDY_ANSWERS rows; empty where nothing was stored."""
        if not self.path.exists():
            return STUDY_ANSWERS.empty()
        with self._open() as connection:
            table = connection.sql(
                "SELECT * FROM answers ORDER BY answered_at, participant_id"
            ).to_arrow_table()
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return STUDY_ANSWERS.check(frame.cast(STUDY_ANSWERS.empty().schema))

    @contextlib.contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path.with_name(self.path.name + ".lock"), timeout=_LOCK_TIMEOUT_S)
        # One thread: starting more takes longer than writing a few rows.
        with lock, duckdb.connect(str(self.path), config={"threads": 1}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(_TABLE)
            yield connection


_IDENTITY = ("chosen_position", "response_ms", "language", "design_hash")
"""The columns that tell a repeated answer from a different one to the same trial."""
_TYPES = {
    pl.String: "VARCHAR",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
    pl.Boolean: "BOOLEAN",
    pl.List(pl.String): "VARCHAR[]",
    pl.Datetime("us", "UTC"): "TIMESTAMPTZ",
}
_TABLE = "CREATE TABLE IF NOT EXISTS answers ({}, PRIMARY KEY (participant_id, trial_id))".format(
    ", ".join(f"{name} {_TYPES[dtype]}" for name, dtype in STUDY_ANSWERS.empty().schema.items())
)


def _answers_of(file: Path) -> list[object]:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise AnswerError("it is not a file")
        with file.open("rb") as opened:
            read = opened.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise AnswerError(f"the file cannot be read ({error.strerror})") from None
    if len(read) > MOST_FILE_BYTES:
        raise AnswerError(f"the file is larger than {MOST_FILE_BYTES} bytes")
    try:
        content = json.loads(read.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the file is not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
        raise AnswerError("the file is not a download of a listening study")
    answers = content.get("answers")
    if not isinstance(answers, list):
        raise AnswerError("the file has no list of answers")
    return answers


def _time(text: str) -> datetime:
    if not _TIME.fullmatch(text):
        raise AnswerError("answered_at must be a time in UTC such as 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise AnswerError(f"answered_at is not a time: {_shown(text)}") from None


def _shown(value: object) -> str:
    """What was sent, short enough and safe to be shown."""
    return reprlib.repr(value)[:40]

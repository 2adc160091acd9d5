"""The layout of a lake folder: every path, defined once, relative to the folder.

Belongs here: names that more than one module uses. `files` writes files, `lake` manages the folder of a
table. Nothing here touches the disk.
"""

CATALOGUE = "lake.duckdb"
"""A view of every table, for any DuckDB client."""

TABLES_FOLDER = "tables"
"""TABLE/PARTITION/ with the versions of each partition."""

WEIGHTS_FOLDER = "weights"
"""Weights of the networks and of the image emotion head; each file name contains its hash."""

STUDIES_FOLDER = "studies"
"""Hyperparameter studies: NETWORK.journal."""

JOURNAL_FOLDER = "journal"
"""What an unfinished run has already encoded: TABLE/PARTITION/."""

RELEASE_FOLDER = "release"
"""The data set, ready to share."""

SEARCH_FOLDER = "search"
"""The index that `emid query` reads; the first query builds it from the tables."""

COPIES_FOLDER = "media_copies"
"""Thumbnails and short players that the report embeds, by content; a new report reuses them."""

DAGSTER_FOLDER, DAGSTER_RAY_FOLDER = "dagster", "dagster-ray"
"""Dagster's own records if DAGSTER_HOME is not set, for the profiles local and ray."""

REPORT_PAGE = "report.html"
PAIRS_PAGE = "pairs.html"
HEALTH_PAGE = "health.html"
ALERTS_FILE = "alerts.log"
BUILD_LOCK = ".build.lock"
"""Held by `emid build`."""

BUILD_PROGRESS = ".build.json"
"""How far the build that holds the lock is."""

STUDY_FOLDER = "study"
"""The listening study. The names below are relative to it."""

DESIGNS_FOLDER = "designs"
"""Designs by hash; they reveal the conditions, so they are not for participants."""

STUDY_PAGE_FOLDER, STUDY_PAGE = "page", "index.html"
"""The folder to give to participants, and the page in it."""

ANSWERS_FOLDER, ANSWERS_STORE = "answers", "answers.duckdb"
"""Answer files that participants sent, and the answers that the server received."""

CHOICES_FILE = "choices.csv"
"""A row for each image of each analysed trial."""

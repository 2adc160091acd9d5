"""Where things lie in a lake folder: every path once, relative to the folder.

Belongs here: names that more than one module knows. How files are written is `files`, what is in the folder
of a table is `lake`. Nothing here touches a disk.
"""

CATALOGUE = "lake.duckdb"
"""A view of every table, for whoever has DuckDB."""

TABLES_FOLDER = "tables"
"""TABLE/PARTITION/ with the versions of each partition."""

WEIGHTS_FOLDER = "weights"
"""Weights of the networks and of the head that predicts emotions, each with its hash in its name."""

STUDIES_FOLDER = "studies"
"""The studies of hyperparameters: NETWORK.journal."""

JOURNAL_FOLDER = "journal"
"""What an unfinished run has encoded so far: TABLE/PARTITION/."""

RELEASE_FOLDER = "release"
"""The data set, to hand on."""

SEARCH_FOLDER = "search"
"""What `emid query` reads, made from the tables by the first query."""

DAGSTER_FOLDER, DAGSTER_RAY_FOLDER = "dagster", "dagster-ray"
"""Dagster's own records, where DAGSTER_HOME is not set: of the profiles local and ray."""

REPORT_PAGE = "report.html"
PAIRS_PAGE = "pairs.html"
HEALTH_PAGE = "health.html"
ALERTS_FILE = "alerts.log"
BUILD_LOCK = ".build.lock"
"""Held by `emid build`."""

STUDY_FOLDER = "study"
"""The listening study. What follows lies in it."""

DESIGNS_FOLDER = "designs"
"""Designs by hash; they tell the conditions, so they are not for participants."""

STUDY_PAGE_FOLDER, STUDY_PAGE = "page", "index.html"
"""The folder to hand out, and the page in it."""

ANSWERS_FOLDER, ANSWERS_STORE = "answers", "answers.duckdb"
"""Files of answers that participants sent, and what the server has taken."""

CHOICES_FILE = "choices.csv"
"""A row for each image of each analysed trial."""

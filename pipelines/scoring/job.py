"""Plan a scoring job before the first image is read: pinned model, input, vocabulary, preprocessing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ecor.clip.image_features import FeaturePart, FeatureSet, ImageSide
from ecor.config.checks import require
from ecor.config.choices import Precision
from ecor.config.model import Preprocess
from ecor.config.processor import has_bf16_units
from ecor.data.predictions.manifest import PredictionParents
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.storage.model_records import read_checkpoint
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, absolute_address
from pipelines.config.stages import ScoreConfig
from pipelines.scoring.feature_units import input_of_features
from pipelines.scoring.incremental.earlier_labels import EarlierLabels, read_earlier_labels
from pipelines.scoring.incremental.reuse_plan import ReusePlan
from pipelines.scoring.inputs import Input, read_input
from pipelines.scoring.predictions_folder import job_records
from pipelines.storage.checkpoint_facts import read_image_side, read_preprocess
from pipelines.storage.image_bytes import is_within
from pipelines.storage.kept_features import KeptFeatures, read_kept_features
from pipelines.tracking import model_cache
from pipelines.tracking.model_versions import ModelVersion

if TYPE_CHECKING:
    from pipelines.scoring.attributions import AttributionSettings

DEFAULT_MODEL = "models:/ecor@champion"
_DIGESTS = ("input_digest", "model_digest", "vocabulary_digest", "features_digest", "since_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """A planned scoring job."""

    config: ScoreConfig
    model: ModelVersion
    tracking: TrackingConfig
    cluster: ClusterConfig
    input: Input
    vocabulary: Vocabulary | None
    """Vocabulary to use instead of the model's own."""
    preprocess: Preprocess
    evidence: "AttributionSettings | None"
    """Which images get heat maps, and how."""
    image_side: ImageSide | None
    """Of the model, if features are kept or read."""
    kept: KeptFeatures | None
    """Features to label, instead of images."""
    since: EarlierLabels | None = None
    """Labels whose rows are reused."""
    reuse: ReusePlan | None = None
    """Which of these rows; planned when the output is claimed."""

    @property
    def input_address(self) -> str:
        """Where the images are, or were when their features were kept."""
        if self.kept is not None:
            return self.kept.labels.parents.input
        assert self.config.input is not None, "settings name an input or features"
        return self.config.input

    @property
    def vocabulary_digest(self) -> str:
        return self.vocabulary.digest if self.vocabulary else self.model.vocabulary_digest

    @property
    def identity(self) -> dict[str, Any]:
        """The values that must be equal for finished units to be reused; all rows of a folder are of one model."""
        return {
            "input_digest": self.input.digest,
            "model_name": self.model.name,
            "model_version": self.model.version,
            "model_digest": self.model.digest,
            "vocabulary_digest": self.vocabulary_digest,
            **({} if self.kept is None else {"features_digest": self.kept.features.digest}),
            **({"fast_jpeg": True} if self.config.fast_jpeg else {}),  # older records do not know it
            **self._since_identity(),
            **output_settings(self.config),
            **({} if self.evidence is None else {"evidence": self.evidence.identity}),
        }

    def _since_identity(self) -> dict[str, str]:
        if self.since is None:
            return {}
        return {"since_digest": self.since.digest, "since_check": self.config.since_check}

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of input, model, vocabulary and features, written to each commit record and to the MLflow run."""
        return {name: digest for name, digest in self.identity.items() if name in _DIGESTS}

    @property
    def parents(self) -> PredictionParents:
        return PredictionParents(
            input=self.input_address,
            input_digest=self.input.digest,
            model_uri=self.model.asked_for,
            model_name=self.model.name,
            model_version=self.model.version,
            model_digest=self.model.digest,
            vocabulary_digest=self.vocabulary_digest,
            features=None if self.kept is None else self.kept.folder,
            features_digest=None if self.kept is None else self.kept.features.digest,
            since=None if self.since is None else self.since.folder,
            since_digest=None if self.since is None else self.since.digest,
        )

    def feature_set(self, parts: Sequence[FeaturePart | None], *, labels_digest: str) -> FeatureSet | None:
        """The record of the features that this job has kept; None where it keeps none.

        Args:
            parts: of its units, in order.
            labels_digest: of its labels.
        """
        if not self.config.keep_features:
            return None
        assert self.image_side is not None, "planned with the features"
        found = tuple(part for part in parts if part is not None)
        assert len(found) == len(parts), "a unit without features is not done"
        return FeatureSet(parts=found, image_side=self.image_side, labels_digest=labels_digest)

    def exceeds_rejected(self, num_rejected: int) -> bool:
        """Whether more than the allowed share of all images is rejected."""
        return num_rejected > self.config.max_rejected * self.input.num_images


def plan_job(config: ScoreConfig, *, cluster: ClusterConfig, tracking: TrackingConfig) -> ScoreJob:
    """Pin model, input and method; the model is downloaded, and loaded only if its record is an older one.

    Args:
        config: settings of the stage.
        cluster: where the job runs.
        tracking: the registry's server.

    Raises:
        ValueError: for a model, input, vocabulary, attribution method or kept features that do not exist or do not
            fit.
        OSError: when the registry's server or a store fails.
    """
    _check_output(config)
    kept = None if config.features is None else read_kept_features(config.features)
    since = None if config.since is None else read_earlier_labels(config.since, with_features=config.keep_features)
    made_before = kept or since
    model = model_cache.pin_model(config.model or _default_model(made_before), tracking=tracking)
    if made_before is not None and config.model is None:
        _check_model(model, made_before=made_before)
    images = _read_images(config) if kept is None else input_of_features(kept)
    vocabulary = read_vocabulary(config.vocabulary) if config.vocabulary else None
    folder = model_cache.fetch_model(model, tracking=tracking)
    precision = _choose_precision(config, kept=kept, since=since)
    scoring = config.scoring.for_model(read_checkpoint(folder).method or "joint")
    config = replace(config, scoring=scoring, precision=precision)
    preprocess = read_preprocess(folder)
    image_side = None
    if config.keep_features or kept is not None:
        image_side = read_image_side(folder, precision=precision, use_gpu=config.use_gpu)
    if kept is not None and image_side is not None:
        kept.require_image_side(image_side, model=model.uri)
    job = ScoreJob(
        config=config,
        model=model,
        tracking=tracking,
        cluster=cluster,
        input=images,
        vocabulary=vocabulary,
        preprocess=preprocess,
        evidence=_read_evidence(config, model=model, tracking=tracking, num_images=images.num_images),
        image_side=image_side,
        kept=kept,
        since=since,
    )
    if since is not None:
        since.require_same_settings(job.identity)
    return job


def _check_output(config: ScoreConfig) -> None:
    """The labels that a job reads stay as they are."""
    for what, read in (("features", config.features), ("earlier labels", config.since)):
        require(
            read is None or not is_within(absolute_address(config.output), folder=absolute_address(read)),
            f"--output {config.output} is in the folder of the {what}: name another folder for the new labels",
        )


def _choose_precision(config: ScoreConfig, *, kept: KeptFeatures | None, since: EarlierLabels | None) -> Precision:
    """The precision of a job's rows: all of one, whichever machines label them and resume the job.

    Labels of an earlier version say `auto`: that was fp32 on CPUs.
    """
    if config.precision != "auto":
        return config.precision
    if kept is not None:
        return cast(Precision, kept.features.image_side.precision)
    made = since.identity if since is not None else {} if config.fresh else job_records(config.output).read("identity")
    if made and "precision" in made:
        return cast(Precision, made["precision"])
    return "bf16" if config.use_gpu or has_bf16_units() else "fp32"


def _default_model(made_before: KeptFeatures | EarlierLabels | None) -> str:
    """The address of the model that nobody has named: that of the earlier labels, or the usual one."""
    return DEFAULT_MODEL if made_before is None else made_before.labels.parents.pinned_model


def _check_model(model: ModelVersion, *, made_before: KeptFeatures | EarlierLabels) -> None:
    """Check that a model that nobody has named is the one that made the labels."""
    expected = made_before.labels.parents.model_digest
    require(
        model.digest == expected,
        f"{model.uri} made the labels of {made_before.folder} as model {expected}, and is {model.digest} now: name the "
        "model to label with by --model",
    )


def _read_images(config: ScoreConfig) -> Input:
    assert config.input is not None, "settings name an input or features"
    found = read_input(
        config.input, unit_size=config.unit_size, follow_links=config.follow_links, allow_http=config.allow_http
    )
    require(
        config.since is None or not found.is_split,
        f"--since takes a folder of images or a table, and --input {config.input} is a split of shards: name the "
        "images that the shards were made of, or leave out --since",
    )
    return found


def _read_evidence(
    config: ScoreConfig, *, model: ModelVersion, tracking: TrackingConfig, num_images: int
) -> "AttributionSettings | None":
    """Which images get heat maps; torch is imported only where the settings speak of them."""
    names = ("explain", "explain_projection", "explain_lexicon", "explain_settings")
    if not any(getattr(config, name) for name in names):
        return None
    from pipelines.scoring.attributions import read_attribution_settings
    from pipelines.tracking.model_loading import load_projection

    projection = None
    if config.explain_projection is not None:
        digest = model.backbone_digest
        projection = load_projection(config.explain_projection, tracking=tracking, backbone_digest=digest)
    return read_attribution_settings(config, num_images=num_images, projection=projection)

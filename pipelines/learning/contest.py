"""Compare the new model with the champion on held-out corrections, and promote it unless it is worse."""

from dataclasses import dataclass

from ecor.config.scoring import ScoringConfig
from ecor.evaluation.record import difference_of_folders, read_evaluation
from ecor.storage import filesystem
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.learning import LearnConfig
from pipelines.config.reporting import EvaluateConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig, ScoreConfig
from pipelines.learning.initial_model import InitialModel
from pipelines.runtime.console import say
from pipelines.stages import evaluate, promote, score
from pipelines.storage.record_store import RecordStore
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import ModelVersion

_CONTEST = "contest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestResult:
    """Who won, and by how much."""

    candidate: str
    """`models:/<name>/<version>`."""
    champion: str
    """The version that it was compared with."""
    is_promoted: bool
    num_held_out: int
    """Images that both have labelled and whose category and rationale are known."""
    rr: float
    """Strict RR of the candidate, a share."""
    champion_rr: float
    difference: float
    """RR less the champion's, with the ends of its paired bootstrap interval."""
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Compares versions on the held-out split of one folder of `ecor learn`."""

    config: LearnConfig
    scoring: ScoringConfig
    """How the labels were decoded."""
    cluster: ClusterConfig
    tracking: TrackingConfig

    def run(self, candidate: ModelVersion, *, initial: InitialModel) -> ContestResult:
        """Score and evaluate both versions, and move the alias by the rule of `ecor promote`.

        The champion is the version that has the alias; where there is none, the model of the labels becomes it first.

        Raises:
            ValueError: as the stages.
            OSError: as the stages.
        """
        rival = self._find_rival(candidate, initial=initial)
        ours, theirs = self._evaluate(candidate), self._evaluate(rival)
        winner = self._find_champion(candidate)
        if winner is None or winner.version != candidate.version:  # else promoted by a run that was killed behind it
            winner = promote.run(
                PromoteConfig(
                    model=candidate.uri, alias=self.config.alias, evaluation=ours, champion_evaluation=theirs
                ),
                tracking=self.tracking,
            )
        gap = difference_of_folders(ours, theirs)
        return ContestResult(
            candidate=candidate.uri,
            champion=rival.uri,
            is_promoted=winner.version == candidate.version,
            num_held_out=gap.num_images,
            rr=_strict_rr(ours),
            champion_rr=_strict_rr(theirs),
            difference=gap.value,
            low=gap.low,
            high=gap.high,
        )

    def _find_rival(self, candidate: ModelVersion, *, initial: InitialModel) -> ModelVersion:
        """The champion before this candidate; a run that was interrupted after the promotion still finds it."""
        store = RecordStore(self.config.folder)
        rival = self._find_champion(candidate) or self._crown(initial, candidate)
        if rival.version != candidate.version:
            store.write(_CONTEST, {"champion": rival.uri, "candidate": candidate.uri})
            return rival
        record = store.read(_CONTEST)
        if record is None or record["candidate"] != candidate.uri:
            return self._register(initial, candidate)  # promoted by hand: compared with the model of the labels
        return model_registry.resolve_model(record["champion"], tracking=self.tracking)

    def _find_champion(self, candidate: ModelVersion) -> ModelVersion | None:
        """The version that has the alias now."""
        return model_registry.find_version(f"models:/{candidate.name}@{self.config.alias}", tracking=self.tracking)

    def _crown(self, initial: InitialModel, candidate: ModelVersion) -> ModelVersion:
        version = self._register(initial, candidate)
        say(f"no version of {candidate.name} is {self.config.alias} yet: the model of the labels becomes it")
        return promote.run(PromoteConfig(model=version.uri, alias=self.config.alias), tracking=self.tracking)

    def _register(self, initial: InitialModel, candidate: ModelVersion) -> ModelVersion:
        """The model of the labels as a version beside the candidate."""
        if initial.version.version is not None and initial.version.name == candidate.name:
            return initial.version
        settings = RegisterConfig(checkpoint=str(initial.folder), name=candidate.name, alias="")
        return model_registry.register_model(settings, tracking=self.tracking)

    def _evaluate(self, version: ModelVersion) -> str:
        """Score and evaluate a version on the held-out split; the folder of the evaluation."""
        folder, place = self.config.folder, f"version-{version.version}"
        labels = filesystem.join(folder, f"labels/{place}")
        scoring = ScoreConfig(
            input=filesystem.join(folder, "shards/test"),
            output=labels,
            model=version.uri,
            vocabulary=filesystem.join(folder, "shards/vocabulary.json"),
            scoring=self.scoring,
            use_gpu=self.config.use_gpu,
        )
        score.run(scoring, cluster=self.cluster, tracking=self.tracking)
        evaluation = EvaluateConfig(predictions=(labels,), output=filesystem.join(folder, f"evaluation/{place}"))
        evaluate.run(evaluation, tracking=self.tracking)
        return evaluation.output


def _strict_rr(evaluation: str) -> float:
    return read_evaluation(evaluation).results[0].metrics["strict/rr"].value

"""Probe `score`: the flow of the stage on portions of a sample, decoding and scoring apart, and other batch sizes."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ecor.data.shard_manifest import read_shard_manifest
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.stages import ScoreConfig
from pipelines.runtime.actor_resources import Reservation, reserve_resources
from pipelines.runtime.local_run import num_local_cpus, restore_torch_threads
from pipelines.scoring.decoder import Part, decode_unit
from pipelines.scoring.flows.flow_settings import make_scorer_settings
from pipelines.scoring.flows.local_flow import stream_local_units
from pipelines.scoring.job import ScoreJob, plan_job
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scorer import Scorer
from pipelines.scoring.work_units import Listed, ListingUnit
from pipelines.stages.planning.estimates import Cost, Estimate, Spent, Stopwatch, cost_per_image, mean_of
from pipelines.stages.planning.workspace import Workspace, quiet

_NUM_PORTIONS = 8
_FEWEST_PORTIONS = 3
_AHEAD = 3
"""Parts that are decoded before the first one is scored: time of so many portions at the end lacks decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreProbe:
    """What the sample shows about `score`."""

    image: Cost
    """Per image, decoding and scoring at the same time in one process, as small jobs do."""
    decode_s: Estimate
    """Per image, on one CPU."""
    score_s: Estimate
    """Per image, of one scorer."""
    num_probed: int
    rejected: Mapping[str, int]
    """Images of the sample by reason."""
    images_per_s: Mapping[int, float]
    """Of one scorer, by batch size: the best of three, because other work on the machine only makes it slower."""
    model_bytes: int
    """Of both towers in memory."""


def probe_score(
    config: ScoreConfig,
    *,
    files: Sequence[Listed],
    num_images: int,
    checkpoint: str,
    shards: str,
    name: str,
    workspace: Workspace,
    cluster: ClusterConfig,
    seconds: float,
) -> ScoreProbe:
    """Label a sample in this process, on this machine's GPU if the settings use one.

    Args:
        config: settings of the stage; `input`, `output` and `model` are replaced.
        files: the sample; images are read again where it is smaller than the portions together.
        num_images: images of the whole job, of which `explain_sample` is a part.
        checkpoint: folder of a model.
        shards: folder of a split, only to plan the job with.
        name: of the folder of labels in the workspace.
        workspace: where labels go.
        cluster: gives the number of CPUs.
        seconds: of the portions, about; 3 to 8 are measured.

    Raises:
        ValueError: as `pipelines.stages.score.run`.
        OSError: when a disk or a store fails.
    """
    config = replace(config, input=shards, output=workspace.path(name), model=checkpoint, since=None)
    config = replace(
        config, num_decoders=None, num_scorers=None, fresh=False, text=replace(config.text, cache_dir=None)
    )
    share = min(1.0, config.explain_sample / num_images)
    config = replace(config, explain_sample=max(1, round(share * read_shard_manifest(shards).num_samples)))
    with quiet(), restore_torch_threads():
        job = plan_job(config, cluster=cluster, tracking=workspace.tracking)
        machine = {"CPU": float(num_local_cpus(cluster)), "GPU": float(config.use_gpu)}
        reservation = reserve_resources(config, machines=[machine])
        portions = _stream(job, files=files, reservation=reservation, seconds=seconds)
        scorer = Scorer(make_scorer_settings(job, reservation=reservation))
        parts = _decode(job, files=files)
        decoded = [part for part in parts if part.num_images]
        largest = max(parts, key=lambda part: part.num_images)
        rates = _rates(scorer, part=largest, batch_size=config.batch_size, seconds=seconds)
    num_probed = sum(part.num_images + len(part.rejected) for part in parts)
    return ScoreProbe(
        image=cost_per_image(portions),
        decode_s=mean_of([part.decode_s / part.num_images for part in decoded]),
        score_s=mean_of([1 / rate for rate in rates[config.batch_size]]),
        num_probed=num_probed,
        model_bytes=sum(each.numel() * each.element_size() for each in scorer.recognizer.backbone.parameters()),
        rejected=Counter(each.reason for part in parts for each in part.rejected),
        images_per_s={size: max(found) for size, found in rates.items()},
    )


def _stream(job: ScoreJob, *, files: Sequence[Listed], reservation: Reservation, seconds: float) -> list[Spent]:
    """Time between the reports of portions of one batch each; the first ones pay for the model, the last ones rest."""
    size = min(job.config.batch_size, len(files))
    units = [
        ListingUnit(name=f"{number:06d}", files=tuple(files[(number * size + i) % len(files)] for i in range(size)))
        for number in range(1 + _NUM_PORTIONS + _AHEAD)
    ]
    folder = PredictionsFolder(job.config.output, identity=job.identity, keep_features=job.config.keep_features)
    folder.claim_folder()
    spent: list[Spent] = []
    with folder.hold_lease():
        attempts = folder.claim_units([unit.name for unit in units])
        reports = stream_local_units(job, units, folder=folder, attempts=attempts, reservation=reservation)
        watch, began = Stopwatch(), time.perf_counter()
        for number, _ in enumerate(reports):
            portion = watch.read(num_images=size)
            if number == 0:
                began = time.perf_counter()
            elif number <= _NUM_PORTIONS:
                spent.append(portion)
            if len(spent) >= _FEWEST_PORTIONS and time.perf_counter() - began > seconds:
                break
        reports.close()  # type: ignore[attr-defined] # a generator
    return spent


def _decode(job: ScoreJob, *, files: Sequence[Listed]) -> list[Part]:
    """The sample, in parts of two batches."""
    unit = ListingUnit(name="decode", files=tuple(files))
    num_images = min(2 * job.config.batch_size, len(files))
    return list(decode_unit(unit, preprocess=job.preprocess, num_images=num_images, fast_jpeg=job.config.fast_jpeg))


def _rates(scorer: Scorer, *, part: Part, batch_size: int, seconds: float) -> dict[int, list[float]]:
    """Images per second of a part, three times for each batch size: the configured one, half and double of it.

    Other sizes than the configured one are left out when `seconds` are over, and where the part is too small.
    """
    rates: dict[int, list[float]] = {}
    scorer.score(part)  # sentences are encoded and buffers are filled at first
    started = time.perf_counter()
    for size in (batch_size, max(1, batch_size // 2), 2 * batch_size):
        if rates and (size in rates or size > part.num_images or time.perf_counter() - started > seconds):
            continue
        scorer.settings = replace(scorer.settings, batch_size=size)
        for _ in range(3):
            began = time.perf_counter()
            scorer.score(part)
            rates.setdefault(size, []).append(part.num_images / (time.perf_counter() - began))
    return rates

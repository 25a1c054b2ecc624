"""How often `ecor audit` breaks its promise, and how much it accepts beside an oracle that knows every label.

    python benchmarks/audit.py --simulated 400
    python benchmarks/audit.py --drawn 100
    pip install mapie; python benchmarks/audit.py --simulated 400 --mapie

Simulated jobs: labels whose confidence is calibrated, too high, too low, or says nothing while just too many of
them are wrong (the hardest case). Drawn jobs: new images each, labelled by the small CLIP of the package. In the
demo's world its labels are zero-shot, with temperatures fitted on other images. No CLIP of the other world comes with
the package: there a linear probe on the same CLIP's features names the categories. `--mapie` judges the same samples
also by MAPIE's controller of precision, with the same thresholds in the same order. Its tails are binomial, as of an
endless stream.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.stats import binomtest

import ecor
from ecor.demo.worlds.registry import set_vocabulary
from ecor.demo.zero_shot_eval import SplitImages, draw_split
from ecor.evaluation.linear_probe import select_probe
from ecor.evaluation.risk_control import Promise, TestSequence, certify, count_above, make_test_sequence
from ecor.probability.temperature_scaling import fit_temperature, fit_temperatures

KINDS = {"calibrated": 1.0, "too high": 1.5, "too low": 0.6}
"""Simulated confidences: a label is right with the probability of its confidence to this power."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All labels of one job: a score each, and whether it is wrong."""

    scores: np.ndarray
    wrong: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One audit of one job."""

    broken: bool
    accepted: float
    """Share of the labels."""
    oracle: float
    """Largest share, of the same thresholds, for which the promise holds."""


Judge = Callable[[Job, TestSequence, np.ndarray, Promise], float | None]
"""Of a job, its thresholds, its sample and the promise: the threshold that is certified, if any."""


def audit(job: Job, *, size: int, promise: Promise, seed: int, judge: Judge) -> Outcome:
    """Draw, judge and certify."""
    num = len(job.scores)
    sampled = np.zeros(num, dtype=bool)
    sampled[np.random.default_rng((2, seed)).choice(num, size=size, replace=False)] = True
    sequence = make_test_sequence(job.scores, is_sampled=sampled, predicted_right=job.scores, promise=promise)
    found = judge(job, sequence, sampled, promise)
    num_wrong = count_above(sequence, job.scores[job.wrong])
    holds = num_wrong <= promise.max_wrong(sequence.num_labels)
    return Outcome(
        broken=found is not None and not holds[sequence.thresholds == found][0],
        accepted=0.0 if found is None else float((job.scores >= found).mean()),
        oracle=float(sequence.num_labels[holds].max(initial=0)) / num,
    )


def judge_by_ecor(job: Job, sequence: TestSequence, sampled: np.ndarray, promise: Promise) -> float | None:
    found = certify(sequence, num_wrong=count_above(sequence, job.scores[sampled & job.wrong]), promise=promise)
    return None if found is None else found.threshold


def judge_by_mapie(job: Job, sequence: TestSequence, sampled: np.ndarray, promise: Promise) -> float | None:
    """Precision of "right" above a threshold, by fixed-sequence testing from the same first threshold."""
    from mapie.risk_control import BinaryClassificationController, FWERFixedSequenceTesting

    if sequence.start is None:
        return None
    controller = BinaryClassificationController(
        predict_function=lambda scores: np.stack([1 - scores, scores], axis=1),
        risk="precision",
        target_level=promise.right,
        confidence_level=promise.sure,
        list_predict_params=sequence.thresholds[sequence.start :],
        fwer_method=FWERFixedSequenceTesting(n_starts=1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no threshold holds is an answer here
        controller.calibrate(job.scores[sampled], (~job.wrong[sampled]).astype(int))
    return float(np.min(controller.valid_predict_params)) if len(controller.valid_predict_params) else None


def simulated_job(kind: str, *, seed: int, num_labels: int, promise: Promise) -> Job:
    generator = np.random.default_rng((1, seed))
    scores = generator.beta(8, 0.8, size=num_labels)
    if kind in KINDS:
        return Job(scores=scores, wrong=generator.random(num_labels) > scores ** KINDS[kind])
    wrong = np.zeros(num_labels, dtype=bool)
    wrong[generator.choice(num_labels, size=int(promise.max_wrong(num_labels)) + 1, replace=False)] = True
    return Job(scores=scores, wrong=wrong)


def drawn_jobs(world: str, *, num_jobs: int, num_labels: int) -> Iterator[dict[str, Job]]:
    """Jobs of new drawings each, by what is promised."""
    label = zero_shot_labeller() if world == "demo" else probe_labeller()
    for number in range(num_jobs):
        yield label(draw_split(f"{world}-small", split="test", num_images=num_labels, seed=1000 + number))


def zero_shot_labeller() -> Callable[[SplitImages], dict[str, Job]]:
    """The package's CLIP on the names of its world, with temperatures fitted on validation drawings."""
    model = ecor.Recognizer.zero_shot(set_vocabulary("demo-small"))
    names, held_out = model.vocabulary, draw_split("demo-small", split="validation", num_images=400, seed=1000)
    temperatures = fit_temperatures(
        model.image_features(pixels_of(held_out)),
        model.text,
        categories=torch.tensor([names.categories.index(held_out.categories[i]) for i in held_out.category]),
        rationales=torch.tensor([names.rationales.index(held_out.rationales[i]) for i in held_out.rationale]),
        logit_scale=model.backbone.logit_scale,
        methods=("joint",),
    )
    model = model.with_temperatures(temperatures)

    def label(split: SplitImages) -> dict[str, Job]:
        joint = model.joint(pixels_of(split))
        rows = torch.arange(len(split.category))
        best = joint.log_prob.flatten(1).argmax(1)
        place, category = best // joint.log_prob.shape[2], best % joint.log_prob.shape[2]
        rationale = joint.rationales[rows, place]
        true = torch.tensor([names.categories.index(split.categories[i]) for i in split.category])
        own = torch.tensor([split.rationales.index(name) for name in names.rationales])
        right = (category == true).numpy()
        shown = split.visible[rows, own[rationale]].numpy()
        alone, pair = joint.category_log_prob[rows, category].exp(), joint.log_prob[rows, place, category].exp()
        return {
            "category": Job(scores=alone.double().numpy(), wrong=~right),
            "category and visible reason": Job(scores=pair.double().numpy(), wrong=~(right & shown)),
        }

    return label


def probe_labeller() -> Callable[[SplitImages], dict[str, Job]]:
    """A linear probe on the features of the package's CLIP, with a temperature fitted on half of its validation."""
    model = ecor.Recognizer.zero_shot(set_vocabulary("demo-small"))
    train, held_out = (
        draw_split("other-small", split=split, num_images=800, seed=1000) for split in ("train", "validation")
    )
    first, second = slice(0, 400), slice(400, 800)
    held_out_BD = model.image_features(pixels_of(held_out)).category
    probe = select_probe(
        model.image_features(pixels_of(train)).category,
        train.category,
        validation=(held_out_BD[first], held_out.category[first]),
    )
    temperature = fit_temperature(probe.logits(held_out_BD[second]), held_out.category[second])

    def label(split: SplitImages) -> dict[str, Job]:
        logits = probe.logits(model.image_features(pixels_of(split)).category)
        prob, category = (logits / temperature).softmax(dim=-1).max(dim=-1)
        return {"category": Job(scores=prob.double().numpy(), wrong=(category != split.category).numpy())}

    return label


def pixels_of(split: SplitImages) -> torch.Tensor:
    return torch.from_numpy(split.pixels).permute(0, 3, 1, 2).contiguous()


def report(name: str, outcomes: Sequence[Outcome], *, promise: Promise) -> None:
    """One row of the table; the test asks whether promises are broken more often than allowed."""
    num, num_broken = len(outcomes), sum(each.broken for each in outcomes)
    test = binomtest(num_broken, num, 1 - promise.sure, alternative="greater")
    accepted, oracle = (np.mean([getattr(each, field) for each in outcomes]) for field in ("accepted", "oracle"))
    print(
        f"| {name} | {100 * promise.right:g} % | {num} | {num_broken} | {round((1 - promise.sure) * num)} | "
        f"{test.pvalue:.2f} | {100 * accepted:.1f} % | {100 * oracle:.1f} % |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", type=int, default=0, help="number of simulated jobs of each kind")
    parser.add_argument("--drawn", type=int, default=0, help="number of drawn jobs of each world")
    parser.add_argument("--worlds", nargs="+", default=["demo", "other"], help="drawn worlds")
    parser.add_argument("--mapie", action="store_true", help="judge by MAPIE too")
    args = parser.parse_args()
    judges = {"": judge_by_ecor} | ({", by MAPIE": judge_by_mapie} if args.mapie else {})
    print("| labels | promise | jobs | broken | allowed | p | accepted | oracle |")
    print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    promise = Promise(right=0.95, sure=0.95)
    for kind in [*KINDS, "at the limit"] if args.simulated else []:
        for by, judge in judges.items():
            jobs = (simulated_job(kind, seed=i, num_labels=20_000, promise=promise) for i in range(args.simulated))
            found = [audit(job, size=1000, promise=promise, seed=i, judge=judge) for i, job in enumerate(jobs)]
            report(kind + by, found, promise=promise)
    for world in args.worlds if args.drawn else []:
        promises = [Promise(right=right, sure=0.95) for right in (0.9, 0.95)]
        outcomes: dict[tuple[str, Promise], list[Outcome]] = {}
        for number, jobs_of in enumerate(drawn_jobs(world, num_jobs=args.drawn, num_labels=500)):
            for what, job in jobs_of.items():
                for each, (by, judge) in product(promises, judges.items()):
                    outcome = audit(job, size=200, promise=each, seed=number, judge=judge)
                    outcomes.setdefault((what + by, each), []).append(outcome)
        for (what, each), of_jobs in outcomes.items():
            report(f"{world} world, {what}", of_jobs, promise=each)


if __name__ == "__main__":
    main()

"""How often `ecor diff` reports a drift: between equal jobs (false alarms), and between jobs with a planted shift.

python benchmarks/drift.py --pairs 400
python benchmarks/drift.py --pairs 0 --power 100
python benchmarks/drift.py --pairs 0 --rows 1000000     # time and memory of one comparison of that size

Simulated jobs: 21 categories and 63 rationales with unequal shares, a confidence and an OOD score for each label. A
job of other images is a new draw. A job of the same images is another model's: both models see the same images, with
errors of their own. `cyclic errors`: the distributions are equal, but the two labels of an image cannot be exchanged,
because the second model moves categories and values in a circle.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import stats

from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.schema import PREDICTION_SCHEMA, schema_with
from pipelines.config.reporting import DiffConfig
from pipelines.reporting.drift import diff
from pipelines.reporting.drift.drift_tests import DriftLimits, DriftTest, Quantity, compare

NUM_CATEGORIES = 21
SHIFTS = ("confidence", "ood_score", "category", "rationale")
CONFIDENCE, OOD_SCORE = stats.beta(6, 1.2), stats.norm(0.7, 0.05)
Job = dict[str, np.ndarray]


def draw_images(generator: np.random.Generator, *, num_labels: int) -> Job:
    """What a perfect model would say of some images."""
    shares = np.repeat(1.0 / np.arange(1, NUM_CATEGORIES // 3 + 1), 3)
    category = generator.choice(NUM_CATEGORIES, p=shares / shares.sum(), size=num_labels)
    return {
        "confidence": CONFIDENCE.rvs(size=num_labels, random_state=generator),
        "ood_score": OOD_SCORE.rvs(size=num_labels, random_state=generator),
        "category": category,
        "rationale": 3 * category + generator.choice(3, p=(0.6, 0.3, 0.1), size=num_labels),
    }


def label(images: Job, generator: np.random.Generator, *, cyclic: bool = False) -> Job:
    """What a model says of them: names change for a tenth of the images, values for all."""
    num = len(images["category"])
    found = {name: values.copy() for name, values in images.items()}
    if cyclic:
        _move_in_circles(found, chosen=generator.random(num) < 0.3)
    changed = np.flatnonzero(generator.random(num) < 0.1)
    mistaken = draw_images(generator, num_labels=len(changed))
    for name in ("category", "rationale"):
        found[name][changed] = mistaken[name]
    found["confidence"] *= np.exp(-np.abs(generator.normal(0, 0.05, size=num)))
    found["ood_score"] += generator.normal(0, 0.01, size=num)
    return found


def _move_in_circles(job: Job, *, chosen: np.ndarray) -> None:
    """Each category becomes the next of three that are equally frequent; the rank of a value rises by 0.3, modulo 1."""
    category = job["category"][chosen]
    moved = category // 3 * 3 + (category + 1) % 3
    job["rationale"][chosen] += 3 * (moved - category)
    job["category"][chosen] = moved
    for name, law in (("confidence", CONFIDENCE), ("ood_score", OOD_SCORE)):
        job[name][chosen] = law.ppf((law.cdf(job[name][chosen]) + 0.3) % 1)


def plant(job: Job, generator: np.random.Generator, *, what: str, size: float) -> Job:
    """Change the labels of a random share `size` of all images: the first name, or other values."""
    found = {name: values.copy() for name, values in job.items()}
    chosen = generator.random(len(job["category"])) < size
    if what in ("category", "rationale"):
        found[what][chosen] = 0
    elif what == "confidence":
        found[what][chosen] *= 0.5
    else:
        found[what][chosen] += 0.2
    return found


def test(before: Job, after: Job, *, paired: bool, limits: DriftLimits) -> dict[str, DriftTest]:
    """The tests of a pair of jobs by quantity."""
    quantities = (
        Quantity(name=name, before=before[name], after=after[name], is_name=name in ("category", "rationale"))
        for name in SHIFTS
    )
    return {each.quantity: each for each in compare(quantities, paired=paired, limits=limits)}


def pairs(kind: str, *, num: int, num_labels: int, seed: int) -> Iterator[tuple[Job, Job, np.random.Generator]]:
    """Pairs of equal jobs."""
    for number in range(num):
        generator = np.random.default_rng((seed, number))
        images = draw_images(generator, num_labels=num_labels)
        if kind == "other images":
            others = draw_images(generator, num_labels=num_labels)
            yield label(images, generator), label(others, generator), generator
        else:
            yield label(images, generator), label(images, generator, cyclic=kind == "cyclic errors"), generator


def report_false_alarms(*, num: int, num_labels: int, limits: DriftLimits) -> None:
    """Pairs with any drift; with a smallest effect of 0 they show the error of the tests alone."""
    print("| equal jobs | pairs | labels each | false alarms | allowed | p | with smallest effect 0 | p |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for kind in ("same images", "cyclic errors", "other images"):
        num_false = num_significant = 0
        for before, after, _ in pairs(kind, num=num, num_labels=num_labels, seed=1):
            found = test(before, after, paired=kind != "other images", limits=limits).values()
            num_false += any(each.is_drift for each in found)
            num_significant += any(each.adjusted_p_value <= limits.false_alarms for each in found)
        p_values = [
            stats.binomtest(count, num, limits.false_alarms, alternative="greater").pvalue
            for count in (num_false, num_significant)
        ]
        print(
            f"| {kind} | {num} | {num_labels:,} | {num_false} | {round(limits.false_alarms * num)} | {p_values[0]:.2f} "
            f"| {num_significant} | {p_values[1]:.2f} |",
            flush=True,
        )


def report_power(*, num: int, num_labels: int, limits: DriftLimits) -> None:
    sizes = (0.02, 0.05, 0.1, 0.2)
    print(f"| shift of | images | {' | '.join(f'{100 * size:g} % of the labels' for size in sizes)} |")
    print(f"|---|---|{'---:|' * len(sizes)}", flush=True)
    for what in SHIFTS:
        for kind in ("same images", "other images"):
            found = [
                sum(
                    test(
                        before,
                        plant(after, generator, what=what, size=size),
                        paired=kind == "same images",
                        limits=limits,
                    )[what].is_drift
                    for before, after, generator in pairs(kind, num=num, num_labels=num_labels, seed=2)
                )
                for size in sizes
            ]
            print(f"| {what} | {kind} | {' | '.join(f'{each} of {num}' for each in found)} |", flush=True)


def write_job(folder: str, job: Job, *, rows_per_part: int = 10_000) -> None:
    """A folder of labels as `ecor score` writes it, of images that cannot be read."""
    num, parts = len(job["category"]), []
    names = {"category": "category 0", "rationale": "rationale 0"}
    ranked = {
        "pairs": [names | {"log_prob": -1.0}] * 5,
        "categories": [{"category": names["category"], "log_prob": -1.0}] * 5,
        "rationales": [{"rationale": names["rationale"], "log_prob": -1.0}] * 5,
    }
    schema = schema_with([*PREDICTION_SCHEMA.names, "ood_score"])
    for start in range(0, num, rows_per_part):
        some = {name: values[start : start + rows_per_part] for name, values in job.items()}
        size = len(some["category"])
        category, rationale = (
            pa.array([f"{name} {each}" for each in some[name]]) for name in ("category", "rationale")
        )
        given = {
            "key": pa.array([f"{start + number:012x}-image" for number in range(size)]),
            "source": pa.array([f"images/{start + number}.jpg" for number in range(size)]),
            "category": category, "rationale": rationale,
            "two_stage_category": category, "two_stage_rationale": rationale,
            "confidence": pa.array(some["confidence"], pa.float32()),
            "category_log_prob": pa.array(np.log(some["confidence"]), pa.float32()),
            "ood_score": pa.array(some["ood_score"], pa.float32()),
            "kept_mass": pa.array(np.ones(size), pa.float32()),
            **{name: pa.array([True] * size) for name in ("pairs_exact", "calibrated")},
            **{name: pa.array([ranked[name]] * size, schema.field(name).type) for name in ranked},
            **{name: pa.array([name] * size) for name in
               ("method", "model_name", "model_digest", "vocabulary_digest")},
        }  # fmt: skip
        arrays = [given.get(column.name, pa.nulls(size, column.type)) for column in schema]
        table = pa.Table.from_arrays(arrays, schema=schema)
        parts.append(write_part(folder, table, name=f"{start}.parquet", unit=f"{start}"))
    fields = ("input", "input_digest", "model_uri", "model_name", "model_digest", "vocabulary_digest")
    parents = PredictionParents(**dict.fromkeys(fields, "simulated"), model_version=None)
    write_prediction_set(folder, PredictionSet(parts=tuple(parts), parents=parents, scoring=ScoringConfig()))


def report_size(num_rows: int) -> None:
    """Time and largest memory of one whole comparison."""
    with tempfile.TemporaryDirectory() as scratch:
        for before, after, _ in pairs("same images", num=1, num_labels=num_rows, seed=3):
            write_job(f"{scratch}/before", before)
            write_job(f"{scratch}/after", after)
        del before, after
        memory, started = _peak_mib(), time.perf_counter()
        diff.run(DiffConfig(before=f"{scratch}/before", after=f"{scratch}/after"))
        num_bytes = sum(path.stat().st_size for path in Path(f"{scratch}/after-diff").iterdir())
        print(
            f"{num_rows:,} labels a side: {time.perf_counter() - started:.1f} s, at most {_peak_mib():.0f} MiB "
            f"({memory:.0f} MiB before), {num_bytes / 2**20:.1f} MiB written"
        )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400, help="pairs of equal jobs of each kind")
    parser.add_argument("--power", type=int, default=0, help="pairs of jobs for each planted shift")
    parser.add_argument("--labels", type=int, default=2000, help="labels of a simulated job")
    parser.add_argument("--rows", type=int, default=0, help="labels of the two folders that are compared once")
    args = parser.parse_args()
    limits = DriftLimits()
    if args.pairs:
        report_false_alarms(num=args.pairs, num_labels=args.labels, limits=limits)
    if args.power:
        report_power(num=args.power, num_labels=args.labels, limits=limits)
    if args.rows:
        report_size(args.rows)


if __name__ == "__main__":
    main()

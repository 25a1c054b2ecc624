"""What `ecor words` finds in a drawn world, where the parts of every category are known.

python benchmarks/words.py --work /tmp/words --sets demo-small demo-main demo-large --seeds 6000 6001 6002 6003 6004
python benchmarks/words.py --work /tmp/words --sets other-main --clip clip/model.json clip/weights.safetensors

For each set and seed a pool of candidates is made: the true parts of each category, as many parts of other categories
of the set, and as many parts of categories that are in no image. `ecor.drafting` chooses among them by the training
images, with their labels and without. The chosen vocabulary is compared with the true parts, and then labels test
images, beside the hand-written one. `--sweep` prints the choice by limits instead; the limits were chosen on seeds 9000
to 9002. `--tuned` tunes a model per vocabulary with the shipped settings, on the training images whose labelled
rationale the vocabulary has. Tables: mean and 95 % interval (Student's t) over the seeds. Drawings are kept in --work:
the same command resumes.
"""

import argparse
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.config.drafting import DraftConfig, PruningConfig
from ecor.config.model import BackboneConfig
from ecor.config.scoring import ScoringConfig
from ecor.config.training import ObjectiveConfig
from ecor.convis.wordnet import WordNetLexicon
from ecor.data.predictions.schema import origins_table
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import Vocabulary
from ecor.demo.corpus import CATEGORY_TEMPLATES, PAIR_TEMPLATES, RATIONALE_TEMPLATES
from ecor.demo.dataset import labelled_drawings
from ecor.demo.worlds.registry import get_world
from ecor.drafting.candidates import Candidate, merge_candidates
from ecor.drafting.caption_drafts import count_phrases
from ecor.drafting.category_names import CategoryName
from ecor.drafting.evidence import draft_vocabulary, gather_evidence, most_probable_categories
from ecor.drafting.selection import Decision, Evidence, select_candidates
from ecor.drafting.text_rules import CategoryWords, text_verdicts
from ecor.drafting.wordnet_drafts import choose_synset, kinds_of, synonyms_of, wordnet_drafts
from ecor.evaluation.confidence_intervals import mean_over_repetitions
from ecor.evaluation.label_columns import read_labels
from ecor.evaluation.metrics import observations
from ecor.model import Recognizer
from ecor.storage.digests import json_digest
from pipelines.config.training import TrainConfig
from pipelines.studies.ablation.cell import read_images, read_plain_images
from pipelines.studies.ablation.figures import LabelledImages
from pipelines.studies.drawn_splits import Sizes, WorldSplits, draw_world, locate_world
from pipelines.training.systems.local_run import build_local_trainer, train_to_end
from pipelines.training.systems.prompt_trainer import PromptTrainer

NUM_VALIDATION = 150
"""Validation images of a tuning."""
METRICS = {"strict/rr": "RR", "strict/visible_rr": "visible RR", "strict/accuracy": "accuracy"}
CAPTION_NOISE = 0.2
"""Share of captions that tell of another image's part."""
_HEAD_ENDS = re.compile(
    r"of|on|in|with|at|around|along|behind|between|under|to|over|ending|gripping|shooting|flying|hanging|holding|out"
    r"|taken|tied|set|wrapped"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A set drawn from one seed, with image features."""

    world: WorldSplits
    backbone: Backbone
    train: LabelledImages
    test: LabelledImages

    @property
    def names(self) -> Vocabulary:
        return self.world.vocabulary

    @property
    def parts(self) -> dict[str, frozenset[str]]:
        """The true parts of each category."""
        names = self.names
        return {
            category: frozenset(names.rationales[each] for each in ids)
            for category, ids in zip(names.categories, names.rationales_of, strict=True)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of drawings and features")
    parser.add_argument("--sets", nargs="+", default=["demo-small", "demo-main"], help="sets of a drawn world")
    parser.add_argument("--seeds", nargs="+", type=int, default=[6000, 6001, 6002], help="of images and pools")
    parser.add_argument("--clip", nargs=2, metavar=("MODEL", "WEIGHTS"), help="of `ecor pretrain`; none: the package's")
    parser.add_argument("--test", type=int, default=1000, help="test images per seed")
    parser.add_argument("--tuned", action="store_true", help="label with models that are tuned on the vocabularies")
    parser.add_argument("--sweep", action="store_true", help="print precision and recall by limits")
    given = parser.parse_args()
    torch.set_num_threads(1)
    clip = BackboneConfig(precision="fp32")
    if given.clip:
        clip = BackboneConfig(name=given.clip[0], pretrained=given.clip[1], precision="fp32")
    backbone = load_backbone(clip)
    for name in given.sets:
        studies = [prepare(given, set_name=name, seed=seed, backbone=backbone) for seed in given.seeds]
        if given.sweep:
            sweep(name, studies)
            continue
        rows: dict[str, list[dict[str, float]]] = {}
        for study in studies:
            for way, figures in compare_tuned(study, clip=clip) if given.tuned else compare(study):
                rows.setdefault(way, []).append(figures)
        print_table(name, rows)


def prepare(given: argparse.Namespace, *, set_name: str, seed: int, backbone: Backbone) -> Study:
    sizes = Sizes(num_validation=1, num_test=given.test)
    world = locate_world(given.work, set_name=set_name, num_categories=None, seed=seed, sizes=sizes)
    draw_world(world)
    train, test = (read_plain_images(world, split=split, backbone=backbone) for split in ("train", "test"))
    return Study(world=world, backbone=backbone, train=train, test=test)


def make_pool(study: Study) -> tuple[Candidate, ...]:
    """Per category its true parts, as many of other categories of the set, as many of categories that are not in it."""
    name, drawn = study.world.set_name, random.Random(f"{study.world.set_name}/{study.world.seed}/pool")
    world = get_world(next(world for world in ("demo", "other") if name.startswith(world)))
    own = study.parts
    present = sorted({part for parts in own.values() for part in parts})
    absent = sorted({part for kind in world.kinds.values() for part in kind.rationales} - set(present))
    found = []
    for category, parts in own.items():
        others = [part for part in present if part not in parts]
        wrong = [*drawn.sample(others, len(parts)), *drawn.sample(absent, min(len(parts), len(absent)))]
        mixed = [*sorted(parts), *wrong]
        drawn.shuffle(mixed)
        found += [Candidate(category=category, rationale=part, sources=("pool",)) for part in mixed]
    return merge_candidates(found)


def caption_drafts(study: Study) -> tuple[Candidate, ...]:
    """Phrases of captions of the training images in the words of the pretraining corpus, some of them wrong."""
    drawn, names, images = random.Random(f"{study.world.seed}/captions"), study.names, study.train
    captions = []
    for number, category in enumerate(images.categories.tolist()):
        told = drawn.randrange(len(images.categories)) if drawn.random() < CAPTION_NOISE else number
        part = names.rationales[drawn.choice(images.visible[told].nonzero().squeeze(1).tolist())]
        template = drawn.choice((*CATEGORY_TEMPLATES, *RATIONALE_TEMPLATES, *PAIR_TEMPLATES))
        captions.append(template.format(c=names.categories[category], r=part))
    counts = count_phrases(captions, words={name: (name,) for name in names.categories}, max_words=12)
    return merge_candidates(counts.drafts(min_captions=1))


def drafts_of_wordnet(study: Study, lexicon: WordNetLexicon) -> tuple[tuple[Candidate, ...], dict[str, CategoryWords]]:
    found, words = [], {}
    for name in study.names.categories:
        category = CategoryName(name=name, written=name)
        synset = choose_synset(lexicon, category)
        words[name] = CategoryWords(names=(name,))
        if synset is not None:
            words[name] = CategoryWords(names=(name, *synonyms_of(lexicon, synset)), kinds=kinds_of(lexicon, synset))
            found += list(wordnet_drafts(lexicon, category, synset=synset, depth=DraftConfig().depth, max_words=12))
    return merge_candidates(found), words


def measure(
    study: Study,
    candidates: Sequence[Candidate],
    *,
    is_labelled: bool,
    words: Mapping[str, CategoryWords] | None = None,
) -> tuple[tuple[str, ...], Evidence]:
    """Verdicts of texts, and what the training images say, with their labels or without."""
    categories = study.names.categories
    verdicts = text_verdicts(candidates, words or {name: CategoryWords(names=(name,)) for name in categories})
    names = draft_vocabulary(categories, candidates, keep=[not each for each in verdicts])
    model = Recognizer.zero_shot(names, backbone=study.backbone)
    ids = study.train.categories.numpy() if is_labelled else most_probable_categories(model, study.train.features)
    found = gather_evidence(
        model,
        study.train.features,
        image_categories=ids,
        candidates=candidates,
        verdicts=verdicts,
        pruning=PruningConfig(),
    )
    return verdicts, found.evidence


def choose(
    study: Study,
    candidates: Sequence[Candidate],
    *,
    is_labelled: bool,
    words: Mapping[str, CategoryWords] | None = None,
) -> tuple[Decision, ...]:
    """Prune candidates as `ecor words` does."""
    verdicts, evidence = measure(study, candidates, is_labelled=is_labelled, words=words)
    return select_candidates(candidates, verdicts, evidence=evidence, pruning=PruningConfig())


def compare(study: Study) -> Iterator[tuple[str, dict[str, float]]]:
    """Each way to a vocabulary with its figures."""
    categories = study.names.categories
    pool = make_pool(study)
    ways: dict[str, tuple[Sequence[Candidate], Sequence[bool]]] = {
        "hand-written": (pool, [each.rationale in study.parts[each.category] for each in pool]),
        "pool, not pruned": (pool, [True] * len(pool)),
    }
    for way, is_labelled in (("labels", True), ("no labels", False)):
        ways[f"pool, pruned, {way}"] = (pool, kept(choose(study, pool, is_labelled=is_labelled)))
    number = sum(ways["pool, pruned, labels"][1])
    lot = set(random.Random(study.world.seed).sample(range(len(pool)), number))
    ways["pool, as many at random"] = (pool, [index in lot for index in range(len(pool))])
    said = caption_drafts(study)
    ways["captions, not pruned"] = (said, [True] * len(said))
    ways["captions, pruned, labels"] = (said, kept(choose(study, said, is_labelled=True)))
    for way, (candidates, keep) in ways.items():
        names = draft_vocabulary(categories, candidates, keep=keep)
        yield way, describe(study, candidates, keep) | evaluate_zero_shot(study, names)
    if study.world.set_name.startswith("demo"):
        drafted, words = drafts_of_wordnet(study, WordNetLexicon())
        decisions = choose(study, drafted, is_labelled=True, words=words)
        by_text = [not verdict for verdict in text_verdicts(drafted, words)]
        for way, keep in (("WordNet, not pruned", by_text), ("WordNet, pruned, labels", kept(decisions))):
            figures = evaluate_zero_shot(study, draft_vocabulary(categories, drafted, keep=keep))
            yield way, describe(study, drafted, keep, by_noun=True) | figures


def compare_tuned(study: Study, *, clip: BackboneConfig) -> Iterator[tuple[str, dict[str, float]]]:
    """The hand-written vocabulary, the pool and the pruned pool, each with a model that is tuned on it."""
    pool = make_pool(study)
    ways = {
        "hand-written": [each.rationale in study.parts[each.category] for each in pool],
        "pool, not pruned": [True] * len(pool),
        "pool, pruned, labels": kept(choose(study, pool, is_labelled=True)),
    }
    for way, keep in ways.items():
        model = tune(study, draft_vocabulary(study.names.categories, pool, keep=keep), clip=clip)
        images = replace(study.test, features=read_images(study.world, split="test", recognizer=model).features)
        yield way, describe(study, pool, keep) | evaluate(model, images, names=study.names)


def tune(study: Study, names: Vocabulary, *, clip: BackboneConfig) -> Recognizer:
    """A model that is tuned on a vocabulary, kept in a folder."""
    folder = study.world.folder / f"tuned-{names.digest[:12]}"
    if not (folder / "model").is_dir():
        for split, number in (("train", len(study.train.categories)), ("validation", NUM_VALIDATION)):
            write_split(study, names, split=split, num_images=number, folder=folder / "shards")
        sizes = study.world.sizes
        config = TrainConfig(
            shards=str(folder / "shards"),
            output=str(folder),
            backbone=clip,
            objective=ObjectiveConfig(max_sentences_per_step=sizes.max_sentences_per_step),
            num_epochs=sizes.num_epochs,
            patience=sizes.num_epochs,
            batch_size=sizes.batch_size,
            seed=study.world.seed,
            cache_dir=str(folder / "cache"),
        )
        trainer = build_local_trainer(config, vocabulary=names)
        assert isinstance(trainer, PromptTrainer)
        save_checkpoint(trainer.best_recognizer(train_to_end(trainer)), folder / "model")
    return load(folder / "model", backbone=study.backbone)


def write_split(study: Study, names: Vocabulary, *, split: str, num_images: int, folder: Path) -> None:
    """Shards of drawings; a rationale that the vocabulary lacks is no label."""
    world, entries = study.world, []
    for each in labelled_drawings(set_name=world.set_name, split=split, num_images=num_images, seed=world.seed):
        file = BytesIO()
        each.drawing.image.save(file, "png", compress_level=1)
        known = [text for text in each.visible_rationales if names.has_rationale(text)]
        sample = Sample(
            key=f"{split}-{each.index:06d}",
            image=file.getvalue(),
            extension="png",
            category=each.category,
            rationales=(each.rationale,) if each.rationale in known else (),
            visible_rationales=tuple(known),
            source=f"{world.set_name}/{split}/{each.index}",
        )
        entries.append(ShardEntry(sample=sample))
    manifest = ShardManifest(
        split=split,
        shards=(write_shard(entries, folder=folder / split, name="000000.tar", vocabulary=names),),
        vocabulary_digest=names.digest,
        num_samples=len(entries),
        num_rejected=0,
        num_duplicates=0,
        config_digest=json_digest([world.set_name, world.seed, num_images]),
        parents={},
    )
    write_shard_manifest(manifest, folder / split)


def kept(decisions: Sequence[Decision]) -> list[bool]:
    return [each.is_kept for each in decisions]


def describe(
    study: Study, candidates: Sequence[Candidate], keep: Sequence[bool], *, by_noun: bool = False
) -> dict[str, float]:
    """Number of pairs, share of them that are true, share of the true parts that are among them."""
    pairs = {(each.category, each.rationale) for each, is_kept in zip(candidates, keep, strict=True) if is_kept}
    true = {(category, part) for category, parts in study.parts.items() for part in parts}
    if by_noun:
        nouns = {(category, head_noun(part)) for category, part in true}
        drafted = {(category, head_noun(part)) for category, part in pairs}
        right = [pair for pair in pairs if (pair[0], head_noun(pair[1])) in nouns]
        found = [pair for pair in true if (pair[0], head_noun(pair[1])) in drafted]
        return {"pairs": len(pairs), "precision": len(right) / max(1, len(pairs)), "recall": len(found) / len(true)}
    return {
        "pairs": len(pairs),
        "precision": len(pairs & true) / max(1, len(pairs)),
        "recall": len(pairs & true) / len(true),
    }


def head_noun(text: str) -> str:
    """The last word before what follows the noun: `a tail ending in a tuft` is a tail; without the s of a plural."""
    words = [word for word in text.split() if word not in ("a", "an", "the")]
    end = next((place for place, word in enumerate(words) if place and _HEAD_ENDS.fullmatch(word)), len(words))
    return words[end - 1].removesuffix("s")


def evaluate_zero_shot(study: Study, names: Vocabulary) -> dict[str, float]:
    """Metrics of zero-shot CLIP with a vocabulary on the test images."""
    if not names.rationales:
        return dict.fromkeys(METRICS.values(), float("nan"))
    return evaluate(Recognizer.zero_shot(names, backbone=study.backbone), study.test, names=study.names)


@torch.no_grad()
def evaluate(model: Recognizer, images: LabelledImages, *, names: Vocabulary) -> dict[str, float]:
    """Metrics of a model, by the labels of the drawings, which are ids of `names`; it may have other names itself."""
    visible = [[names.rationales[each] for each in row.nonzero().squeeze(1).tolist()] for row in images.visible]
    origins = origins_table(
        [f"{number:06d}" for number in range(len(images.categories))],
        category_true=[names.categories[each] for each in images.categories.tolist()],
        rationales_true=[[names.rationales[each]] for each in images.rationales.tolist()],
        visible_rationales=visible,
    )
    labels = read_labels(model.label(images.features, origins=origins, scoring=ScoringConfig()))
    found = observations(labels.answers, labels.truth)
    return {words: float(np.mean(found[metric])) for metric, words in METRICS.items()}


def print_table(name: str, rows: Mapping[str, list[dict[str, float]]]) -> None:
    print(f"\n{name}, {len(next(iter(rows.values())))} seeds\n")
    print("| vocabulary | pairs | true | true parts found | RR | visible RR | accuracy |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for way, figures in rows.items():
        cells = [f"{np.mean([each['pairs'] for each in figures]):.0f}"]
        for figure in ("precision", "recall", *METRICS.values()):
            mean = mean_over_repetitions(100 * np.array([each[figure] for each in figures]))
            cells.append(f"{mean.value:.1f} ± {mean.half_width:.1f}")
        print(f"| {way} | {' | '.join(cells)} |")
    against = rows["hand-written"]
    for way in rows:
        gaps = np.array([each["RR"] - hand["RR"] for each, hand in zip(rows[way], against, strict=True)])
        mean = mean_over_repetitions(100 * gaps)
        print(f"<!-- RR of {way} less hand-written: {mean.value:+.1f} ± {mean.half_width:.1f} points -->")


def sweep(name: str, studies: Sequence[Study]) -> None:
    """Precision, recall and their harmonic mean by limits, over all seeds."""
    print(f"\n{name}\n\n| min_auc | min_speaks | labels | true | true parts found | F1 |")
    print("|---:|---:|---|---:|---:|---:|")
    for is_labelled in (True, False):
        measured = []
        for study in studies:
            pool = make_pool(study)
            measured.append((study, pool, *measure(study, pool, is_labelled=is_labelled)))
        for min_auc in (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85):
            for min_speaks in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3):
                pruning = replace(PruningConfig(), min_auc=min_auc, min_speaks=min_speaks)
                found = [
                    describe(study, pool, kept(select_candidates(pool, verdicts, evidence=evidence, pruning=pruning)))
                    for study, pool, verdicts, evidence in measured
                ]
                precision, recall = (np.mean([each[figure] for each in found]) for figure in ("precision", "recall"))
                f1 = 2 * precision * recall / max(precision + recall, 1e-9)
                print(f"| {min_auc} | {min_speaks} | {is_labelled} | {precision:.3f} | {recall:.3f} | {f1:.3f} |")


if __name__ == "__main__":
    main()

"""A job on a few drawn images: a model with prompt tokens, and decisions about its labels."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from ecor.checkpoint import save_checkpoint
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.demo.dataset import write_dataset
from ecor.demo.worlds.registry import set_vocabulary
from ecor.model import Recognizer, as_vocabulary
from pipelines.review.decision import Correction, Decision, LabelBefore

SET = "demo-small"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def save_first_model(folder: Path, *, seed: int = 0) -> Path:
    """The embedded CLIP with text tokens that nobody has tuned, saved in `folder`/checkpoint."""
    backbone = load_backbone(BackboneConfig())
    config = PromptConfig(rationale_tokens=2, category_tokens=2, visual_tokens=0)
    prompts = PromptLearner(config, backbone, generator=torch.Generator().manual_seed(seed))
    names = as_vocabulary(set_vocabulary(SET))
    save_checkpoint(Recognizer(backbone=backbone, prompts=prompts, vocabulary=names), folder / "checkpoint")
    return folder / "checkpoint"


def draw_images(folder: Path, *, num: int, seed: int = 0) -> dict[str, tuple[str, str]]:
    """Drawings in `folder`/train; category and labelled rationale by path."""
    write_dataset(folder, set_name=SET, num_images={"train": num}, seed=seed)
    lines = map(json.loads, (folder / "train" / "truth.jsonl").read_text().splitlines())
    return {str(folder / "train" / each["file"]): (each["category"], each["rationale"]) for each in lines}


def decide(
    row: dict, digest: str, verdict: str, *, after: Correction | None = None, reviewer: str = "Ada", at: int = 0
):
    """A decision about a row of labels."""
    return Decision(
        labels_digest=digest,
        key=row["key"],
        reviewer=reviewer,
        time=NOON + timedelta(seconds=at),
        verdict=verdict,
        before=LabelBefore(**{name: row[name] for name in ("category", "rationale", "confidence")}),
        after=after,
    )

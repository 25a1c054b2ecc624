"""Photos and a model in, overlays of where the evidence is and a table of labels out; no cluster is needed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecor import store
from ecor.config import Preprocess, require
from ecor.explain.concepts import encode_concepts
from ecor.explain.explainer import JointHeatmaps, explain, explain_joint
from ecor.explain.heatmap import Heatmap, frame_of, seen
from ecor.explain.methods import Method
from ecor.explain.overlay import Panel, panels_png
from ecor.explain.ready import lacking, read_projection, ready
from ecor.explain.targets import FreeText
from ecor.model import Recognizer
from ecor.sample import ImageError, decode_image, image_to_pixels
from ecor.vocabulary import read_vocabulary
from pipelines.addresses import check_address
from pipelines.config import ExplainConfig
from pipelines.lexicons import lexicon_named
from pipelines.opening import opened
from pipelines.page import percent
from pipelines.places import TrackingConfig, resolved
from pipelines.units import IMAGE_SUFFIXES, TABLE_SUFFIXES, Listed, ListingUnit, Picture, Rejection, Unit, read_input

DEMO_SET = "demo-small"
_PX = 512
"""Longer side of a picture in a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture that is explained."""

    name: str
    """Of its overlay, without the suffix."""
    picture: Image.Image
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What is said of a picture, and where it is drawn."""

    shown: Shown
    category: str
    category_prob: float
    rationales: tuple[tuple[str, float], ...]
    """Name and P(r | I), best first."""
    texts: tuple[tuple[str, float], ...]
    """Free texts and their cosines."""
    path: Path


def run(
    config: ExplainConfig, *, images: Sequence[str], texts: Sequence[str] = (), tracking: TrackingConfig | None = None
) -> list[Explained]:
    """Write one PNG per picture into `config.output`, and print what the model says of each.

    Args:
        config: model, method, and where to.
        images: files; or folders, tables and splits as `ecor score` takes them.
        texts: sentences that are looked for in every picture beside the model's own answer.
        tracking: where the registry is, for a model that is named `models:/…`.

    Raises:
        ValueError: for a model, method or picture that is not there; a bad picture of a folder is told and left out.
    """
    require(bool(images), "name at least one photo, or a folder of photos")
    for place in images:
        check_address(place, name="images")
    require(all(text.strip() for text in texts), "a --text is empty: say what to look for")
    lacking(config.method, {})  # an unknown name is told before anything is opened
    settings = {} if config.projection is None else dict[str, Any](read_projection(config.projection))
    require(
        config.method == "convis" or lacking(config.method, settings) is None, str(lacking(config.method, settings))
    )
    names = None if config.vocabulary is None else read_vocabulary(config.vocabulary)
    tracking = resolved(tracking or TrackingConfig())
    model = opened(config.model, tracking=tracking, names=names, demo_set=DEMO_SET)
    units = [(place, *_units(place)) for place in images]
    if config.method == "convis":
        settings["concepts"] = encode_concepts(model.backbone, lexicon_named(config.lexicon))
    chosen = ready(config.method, settings)
    done, num_rejected, taken = list[Explained](), 0, Counter[str]()
    for place, base, unit in units:
        for batch in _batches(unit.read(), size=config.batch_size):
            rejected = [each for each in batch if isinstance(each, Rejection)]
            for each in rejected:
                require(base is not None, f"{place} cannot be explained: {each.reason}, {each.detail}")
                _say(f"left out {each.source}: {each.reason}, {each.detail}")
            num_rejected += len(rejected)
            shown = [_named(each, base=base, taken=taken) for each in batch if isinstance(each, Shown)]
            done += _explained(shown, model=model, chosen=chosen, texts=texts, config=config)
    require(bool(done), f"none of the {num_rejected} pictures of {', '.join(images)} can be read")
    Console().print(table_of(done))
    left_out = f", {num_rejected} left out" if num_rejected else ""
    _say(f"{len(done)} {'overlay' if len(done) == 1 else 'overlays'} by {config.method}{left_out}: {config.output}")
    return done


def table_of(explained: Iterable[Explained]) -> Table:
    """A block of lines per picture."""
    table = Table("overlay", "shows", "P", "because there is", "P", box=None, pad_edge=False)
    for each in explained:
        rows = [(name, percent(prob, 1)) for name, prob in each.rationales]
        rows += [(f"“{text}”", f"cosine {cosine:.2f}") for text, cosine in each.texts]
        for number, row in enumerate(rows):
            first = (each.path.name, each.category, percent(each.category_prob, 1)) if number == 0 else ("", "", "")
            table.add_row(*map(_literal, (*first, *row)))
    return table


def _units(place: str) -> tuple[str | None, Unit]:
    """What a place holds; and the folder that names are told from, None for a file that was named itself."""
    path = store.store_of(place)[1]
    if store.is_folder(place) or path.lower().endswith(TABLE_SUFFIXES):
        found = read_input(place, unit_size=2**31)
        return path, _Together(units=found.units)
    if not store.exists(place):
        raise ValueError(f"{place}: there is no such photo or folder")
    require(
        Path(path).suffix.lower() in IMAGE_SUFFIXES,
        f"{place} is no photo: its name should end in one of {', '.join(sorted(IMAGE_SUFFIXES))}",
    )
    return None, ListingUnit(name="0", files=(Listed(path=place),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Together:
    """All units of an input."""

    units: tuple[Unit, ...]
    name: str = "all"

    @property
    def num_images(self) -> int:
        return sum(unit.num_images for unit in self.units)

    def read(self) -> Iterator[Picture | Rejection]:
        for unit in self.units:
            yield from unit.read()


def _batches(found: Iterable[Picture | Rejection], *, size: int) -> Iterator[list[Shown | Rejection]]:
    """Decoded pictures, a few in memory at a time."""
    batch: list[Shown | Rejection] = []
    for each in found:
        batch.append(each if isinstance(each, Rejection) else _decoded(each))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _decoded(picture: Picture) -> Shown | Rejection:
    try:
        return Shown(name="", picture=decode_image(picture.data), source=picture.source)
    except ImageError as error:
        return Rejection(source=picture.source, stage="decode", reason=error.reason, detail=error.detail)


def _named(shown: Shown, *, base: str | None, taken: Counter[str]) -> Shown:
    """With the name of its overlay: its path below the folder, in one word; a second one of that name gets a number."""
    path = shown.source
    relative = path.removeprefix(base.rstrip("/") + "/") if base else path.rsplit("/", 1)[-1]
    name = relative.rpartition(".")[0].replace("://", "-").strip("/").replace("/", "-") or "picture"
    taken[name] += 1
    return Shown(name=name if taken[name] == 1 else f"{name}-{taken[name]}", picture=shown.picture, source=shown.source)


def _explained(
    shown: Sequence[Shown], *, model: Recognizer, chosen: Method, texts: Sequence[str], config: ExplainConfig
) -> Iterator[Explained]:
    """Label, map and draw one batch."""
    if not shown:
        return
    pixels_B3HW = torch.from_numpy(
        np.stack([image_to_pixels(each.picture, preprocess=model.backbone.preprocess) for each in shown])
    )
    size = config.batch_size
    joint = explain_joint(model, pixels_B3HW, by=chosen, num_rationales=config.num_rationales, batch_size=size)
    heatmaps, cosines_BT = [joint.category, joint.rationales], torch.zeros(len(shown), 0)
    if texts:
        free = [FreeText(sentence=text) for text in texts]
        heatmaps.append(explain(model, pixels_B3HW, free, by=chosen, batch_size=size))
        cosines_BT = model.image_features(pixels_B3HW).category @ model.backbone.encode_text(list(texts)).T
    for index, each in enumerate(shown):
        answer = _answer(each, joint, index=index, texts=texts, cosines=cosines_BT[index].tolist(), model=model)
        explained = replace(answer, path=Path(config.output) / f"{each.name}.png")
        store.write(explained.path, _drawn(explained, heatmaps, index=index, preprocess=model.backbone.preprocess))
        yield explained


def _answer(
    shown: Shown, joint: JointHeatmaps, *, index: int, texts: Sequence[str], cosines: Sequence[float], model: Recognizer
) -> Explained:
    names, answer = model.vocabulary, joint.joint
    ids, category = joint.rationale_ids[index].tolist(), int(joint.category_ids[index])
    probs = answer.rationale_log_prob[index, : len(ids)].exp().tolist()
    return Explained(
        shown=shown,
        category=names.categories[category],
        category_prob=float(answer.category_log_prob[index, category].exp()),
        rationales=tuple((names.rationales[each], prob) for each, prob in zip(ids, probs, strict=True)),
        texts=tuple(zip(texts, cosines, strict=True)),
        path=Path(),
    )


def _drawn(explained: Explained, heatmaps: Sequence[Heatmap], *, index: int, preprocess: Preprocess) -> bytes:
    """The original, the category's map, one of each rationale, one of each free text."""
    picture = explained.shown.picture.copy()
    picture.thumbnail((_PX, _PX), Image.Resampling.LANCZOS)
    frame = frame_of((picture.height, picture.width), preprocess=preprocess)
    titles = [(explained.category, f"{percent(explained.category_prob, 1)}, given its reasons")]
    titles += [(name, percent(prob, 1)) for name, prob in explained.rationales]
    titles += [(f"“{text}”", f"cosine {cosine:.2f}") for text, cosine in explained.texts]
    maps = torch.cat([heatmap.on_source(index, frame=frame) for heatmap in heatmaps])
    panels = [Panel(title=Path(explained.shown.source).name)]
    panels += [
        Panel(title=title, note=note, map=map_HW.numpy())
        for (title, note), map_HW in zip(titles, maps.clamp(0, 1).cpu(), strict=True)
    ]
    return panels_png(np.asarray(picture), panels, seen=seen(frame).numpy())


def _literal(text: str) -> Text:
    """Names are no markup of rich's."""
    return Text(text)


def _say(line: str) -> None:
    Console(stderr=True).print(line, highlight=False, soft_wrap=True, markup=False)

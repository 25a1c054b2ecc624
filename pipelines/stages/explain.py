"""Explain photos on this machine: an overlay of where the evidence is for each, and a table of labels.

The output folder holds a PNG per photo, and `explain.summary.json`: how many photos were listed, explained, rejected,
left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ecor.config.checks import require
from ecor.data.images.decoding import ImageError, decode_image
from ecor.data.images.image_names import IMAGE_SUFFIXES
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.tables import TABLE_SUFFIXES
from ecor.explain.methods.registry import missing_requirement
from ecor.explain.overlay import is_overlay
from ecor.model import NOT_FINITE
from ecor.storage import filesystem
from pipelines.config.addresses import check_address
from pipelines.config.infrastructure import TrackingConfig, absolute_address, resolve_tracking
from pipelines.config.reporting import ExplainConfig
from pipelines.reporting.explained_pictures import Explained, Shown, draw_explanation, explanation_table
from pipelines.runtime.balance import Balance, add_balances, say_balance
from pipelines.runtime.console import say
from pipelines.scoring.inputs import ImageInput, read_input
from pipelines.scoring.predictors import Predictor, open_predictor
from pipelines.scoring.sources.listed_folder import EXPLAIN_SUMMARY_NAME
from pipelines.scoring.work_units import ImageItem, Listed, ListingUnit, Rejection
from pipelines.storage.image_bytes import path_within


def run(
    config: ExplainConfig,
    *,
    images: Sequence[str],
    texts: Sequence[str] = (),
    concepts: Sequence[str] = (),
    settings: Sequence[str] = (),
    tracking: TrackingConfig | None = None,
) -> list[Explained]:
    """Write one PNG per picture into `config.output`, and print what the model says of each.

    Args:
        config: model, method, and where to.
        images: files; or folders, tables and splits as `ecor score` takes them.
        texts: sentences that are looked for in every picture beside the model's own answer.
        concepts: of `config.lexicon`, that are looked for too: with all their kinds by `convis`, else by definition.
        settings: of the method, as `num_masks=500`.
        tracking: where the registry is, for a model that is named `models:/…`.

    Raises:
        ValueError: for a model, method or picture that is not there. A bad picture of a folder is only reported.
    """
    _check_request(config, images=images, texts=texts)
    places = [_place(each, output=config.output) for each in images]
    tracking = resolve_tracking(tracking or TrackingConfig())
    model = open_predictor(config, texts=texts, concepts=concepts, settings=settings, tracking=tracking)
    done, balances, names = list[Explained](), list[Balance](), set[str]()
    for place in places:
        explained, rejected = _explain_place(place, config=config, model=model, names=names)
        done += explained
        num_overlays = len({each.path for each in explained})
        balances.append(place.images.balance("explain", num_taken=num_overlays, rejected=rejected))
    balance = add_balances("explain", balances)
    require(bool(done), f"none of the {balance.num_rejected} pictures of {', '.join(images)} can be read and encoded")
    Console().print(explanation_table(done))
    say(_closing_line(len(done), num_rejected=balance.num_rejected, method=model.method, output=config.output))
    _write_summary(balance, method=model.method, output=config.output)
    say_balance(balance)
    return done


def _explain_place(
    place: "_Place", *, config: ExplainConfig, model: Predictor, names: set[str]
) -> tuple[list[Explained], list[Rejection]]:
    """Explain the pictures of a place, and print a line for each that cannot be read or encoded."""
    explained, rejected = list[Explained](), list[Rejection]()
    for batch in _batches(_read_all(place.images), size=config.batch_size):
        shown = [_assign_name(each, base=place.folder, taken=names) for each in batch if isinstance(each, Shown)]
        unread = [each for each in batch if isinstance(each, Rejection)]
        for each in chain(unread, _explain_batch(shown, model=model, output=config.output)):
            if isinstance(each, Explained):
                explained.append(each)
                continue
            require(place.folder is not None, f"{place.address} cannot be explained: {each.reason}, {each.detail}")
            say(f"left out {each.source}: {each.reason}, {each.detail}")
            rejected.append(each)
    return explained, rejected


def _write_summary(balance: Balance, *, method: str, output: str) -> None:
    """What was explained and what was not, beside the overlays."""
    summary = {"stage": "explain", "method": method, "balance": balance.to_record()}
    filesystem.write_json(filesystem.join(output, EXPLAIN_SUMMARY_NAME), summary)


def _closing_line(num_done: int, *, num_rejected: int, method: str, output: str) -> str:
    left_out = f", {num_rejected} left out" if num_rejected else ""
    return f"{num_done} {'overlay' if num_done == 1 else 'overlays'} by {method}{left_out}: {output}"


def _check_request(config: ExplainConfig, *, images: Sequence[str], texts: Sequence[str]) -> None:
    """Raise ValueError for what cannot be, before anything is opened."""
    require(bool(images), "name at least one photo, or a folder of photos")
    for place in images:
        check_address(place, name="images")
    require(all(text.strip() for text in texts), "a --text is empty: say what to look for")
    if config.method is not None:
        missing_requirement(config.method, {})  # an unknown name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A photo, a folder, a table or a split that was asked for."""

    address: str
    folder: str | None
    """That names are relative to; None for a photo that was named itself."""
    images: ImageInput


def _place(place: str, *, output: str) -> _Place:
    """The images of a place.

    Overlays of an earlier run that lie in a folder of photos are not taken as photos.
    """
    path = filesystem.store_of(place)[1]
    if filesystem.is_folder(place) or path.lower().endswith(TABLE_SUFFIXES):
        is_itself = path_within(absolute_address(output), folder=absolute_address(place)) == ""
        require(not is_itself, f"the output {output} is the folder of photos: name another one, also one inside it")
        found = read_input(place, unit_size=2**31, without=absolute_address(output))
        if (line := found.describe_left_out()) is not None:
            say(line)
        return _Place(address=place, folder=path, images=found)
    if not filesystem.exists(place):
        raise ValueError(f"{place}: there is no such photo or folder")
    require(
        Path(path).suffix.lower() in IMAGE_SUFFIXES,
        f"{place} is no photo: its name should end in one of {', '.join(sorted(IMAGE_SUFFIXES))}",
    )
    photo = ListingUnit(name="0", files=(Listed(path=place),))
    return _Place(
        address=place, folder=None, images=ImageInput(digest="", units=(photo,), once_mended="run again", num_listed=1)
    )


def _read_all(images: ImageInput) -> Iterator[ImageItem | Rejection]:
    for unit in images.units:
        yield from unit.read()


def _batches(found: Iterable[ImageItem | Rejection], *, size: int) -> Iterator[list[Shown | Rejection]]:
    """Decoded pictures, a few in memory at a time."""
    batch: list[Shown | Rejection] = []
    for each in found:
        batch.append(each if isinstance(each, Rejection) else _decoded(each))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _decoded(picture: ImageItem) -> Shown | Rejection:
    try:
        return Shown(name="", picture=decode_image(picture.data), source=picture.source)
    except ImageError as error:
        return Rejection(source=picture.source, stage="decode", reason=error.reason, detail=error.detail)


def _assign_name(shown: Shown, *, base: str | None, taken: set[str]) -> Shown:
    """With the name of its overlay: its path below the folder, in one word; a second one of that name gets a number."""
    path = shown.source
    relative = path.removeprefix(base.rstrip("/") + "/") if base else path.rsplit("/", 1)[-1]
    name = relative.rpartition(".")[0].replace("://", "-").strip("/").replace("/", "-") or "picture"
    free = next(each for each in chain([name], (f"{name}-{number}" for number in count(2))) if each not in taken)
    taken.add(free)
    return Shown(name=free, picture=shown.picture, source=shown.source)


def _explain_batch(shown: Sequence[Shown], *, model: Predictor, output: str) -> Iterator[Explained | Rejection]:
    """Label, map and draw one batch; pictures whose features are not finite are rejected."""
    if not shown:
        return
    pixels_B3HW = torch.from_numpy(
        np.stack([image_to_pixels(each.picture, preprocess=model.preprocess) for each in shown])
    )
    answers = model(pixels_B3HW)
    for index, (each, answer) in enumerate(zip(shown, answers.each, strict=True)):
        if not answer.is_finite:
            yield Rejection(source=each.source, stage="explain", reason="not_finite", detail=f"it {NOT_FINITE}")
            continue
        path = Path(output) / f"{each.name}.png"
        require(
            not path.is_file() or is_overlay(path.read_bytes()),
            f"the overlay of {each.source} would replace {path}, which is no overlay: name another folder by --output",
        )
        filesystem.write(
            path, draw_explanation(each, answer, answers.heatmaps, index=index, preprocess=model.preprocess)
        )
        yield Explained(shown=each, answer=answer, path=path)

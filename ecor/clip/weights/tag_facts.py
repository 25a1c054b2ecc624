"""What open_clip knows of published weights and a file of them does not say: their activation and preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ecor.clip.open_clip_api import open_clip
from ecor.clip.weights.architecture_files import check_preprocess, find_difference, read_settings
from ecor.config.checks import name_some, require
from ecor.storage import filesystem

_CONFIG_NAME = "open_clip_config.json"
"""Written beside weights by open_clip and by model hubs."""
AS_NAMED = "none"
"""Instead of a tag: as the name alone says. Earlier versions built every file so."""
_NAMED = 4
"""Tags in a message, at most: one of each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagFacts:
    """How a model must be built and fed for its weights to give the features that they were trained for."""

    quick_gelu: bool
    """Activation of all blocks: QuickGELU; otherwise the one that the architecture says (GELU)."""
    preprocess: Mapping[str, Any]
    """open_clip's `preprocess_cfg`: mean, std, interpolation, resize_mode."""

    def __str__(self) -> str:
        mean = " ".join(f"{value:.3g}" for value in self.preprocess["mean"])
        activation = "QuickGELU" if self.quick_gelu else "GELU"
        return f"{activation}, mean {mean}, {self.preprocess['interpolation']}, {self.preprocess['resize_mode']}"


def tag_facts(name: str, tag: str | None) -> TagFacts:
    """Facts of a tag's weights; without a tag, of the name alone (OpenAI's preprocessing, as open_clip assumes).

    `ViT-B-32` with `openai` was trained with QuickGELU, though the settings of that name say GELU, and open_clip only
    warns. Such a model is built as open_clip's `ViT-B-32-quickgelu` is.
    """
    settings, published = open_clip.get_model_config(name) or {}, open_clip.get_pretrained_cfg(name, tag or "")
    is_quick = settings.get("quick_gelu", False) or published.get("quick_gelu", False)
    return TagFacts(quick_gelu=bool(is_quick), preprocess=_merge(published))


def file_facts(name: str, *, weights: str, tag: str | None, model_cfg: Mapping[str, Any] | None = None) -> TagFacts:
    """Facts of a weights file of an open_clip name.

    They are those of `tag` if it is given (`AS_NAMED`: those of the name alone), else those that
    `open_clip_config.json` beside the file says, else those of all tags of the name, where these agree.

    Args:
        name: of open_clip's list.
        weights: path or address of the file.
        tag: of the name, `AS_NAMED`, or None.
        model_cfg: the architecture that is to be built; None: the one of the name.

    Raises:
        ValueError: if the name has no such tag, the file beside is of another architecture, or the name's tags differ
            and nothing says which of them the file is of.
    """
    if tag == AS_NAMED:
        return tag_facts(name, None)
    known = {each: tag_facts(name, each) for each in open_clip.list_pretrained_tags_by_model(name)}
    if tag is not None:
        require(
            tag in known, f"preprocess_of: {name} has no tag {tag!r}; it has {name_some(list(known), most=8) or 'none'}"
        )
        return known[tag]
    settings = model_cfg or open_clip.get_model_config(name) or {}
    if (beside := facts_beside(weights, model_cfg=settings)) is not None:
        return beside
    kinds = {str(facts): f"{each} ({facts})" for each, facts in reversed(known.items())}
    if len(kinds) > 1:
        named = "; ".join(list(reversed(kinds.values()))[:_NAMED])
        raise ValueError(
            f"{PurePosixPath(weights).name}: published weights of {name} differ in activation or preprocessing, and a "
            f"file does not say which it has: add --backbone.preprocess-of TAG, as {named}; or put its {_CONFIG_NAME} "
            "beside it"
        )
    return next(iter(known.values())) if known else tag_facts(name, None)


def facts_beside(weights: str, *, model_cfg: Mapping[str, Any]) -> TagFacts | None:
    """Facts of the `open_clip_config.json` beside a weights file; None if there is none.

    Args:
        weights: path or address of the file.
        model_cfg: the architecture that is to be built.

    Raises:
        ValueError: if that file cannot be read, or describes another architecture.
    """
    path = filesystem.join(weights.rpartition("/")[0] or ".", _CONFIG_NAME)
    try:
        if not filesystem.is_file(path):
            return None
    except PermissionError:  # S3 answers so for a missing file to whom may not list the bucket
        return None
    remedy = "mend or remove it, and say of which tag the weights are by --backbone.preprocess-of TAG"
    try:
        found = read_settings(path)
        require("preprocess_cfg" in found, "it lacks the key")
        check_preprocess(found["preprocess_cfg"], place=_CONFIG_NAME)
        beside = found.get("model_cfg", {})
        require(isinstance(beside, dict), "model_cfg is no object")
    except ValueError as error:
        raise ValueError(f"{path} has no preprocess_cfg that can be read ({error}): {remedy}") from error
    difference = find_difference(model_cfg, beside)
    require(
        difference is None,
        f"{path} is of another model than {PurePosixPath(weights).name} is opened as: it says {difference}; put the "
        "weights into a folder of their own, or say of which tag they are by --backbone.preprocess-of (a tag, or none)",
    )
    return TagFacts(quick_gelu=bool(beside.get("quick_gelu", False)), preprocess=_merge(found["preprocess_cfg"]))


def _merge(published: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing with open_clip's defaults where nothing is said; without the size, which the tower knows."""
    merged = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(), dict(published))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in merged.items() if key != "size"}

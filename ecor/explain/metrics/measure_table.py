"""Table of heat-map measures: title, description, which direction is better, and digits."""

from dataclasses import dataclass

DELTAS = (0.3, 0.5, 0.7)
"""Thresholds of the overlap in MaxBoxAccV2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Title, description and format of a measure."""

    title: str
    words: str
    higher_is_better: bool | None = True
    """None: neither."""
    digits: int = 3


LOCALISATION: dict[str, Measure] = {
    "iou": Measure(title="mIoU", words="at the one threshold that suits all maps best (oracle)"),
    "iou_at_mean": Measure(title="mIoU at mean", words="of foreground and background, each map cut at its own mean"),
    "contrast": Measure(title="mSC", words="mean inside the mask minus mean outside, in percent", digits=1),
    "pointing": Measure(title="PG", words="pointing game: the maximum lies in the mask"),
    "energy": Measure(title="EPG", words="energy pointing game: share of the map, from 0 to 1, that lies in the mask"),
    "pxap": Measure(title="PxAP", words="area under precision and recall of all pixels"),
    "box": Measure(title="MaxBoxAcc", words="the largest region's box overlaps the true one by a half"),
    "box_v2": Measure(title="V2", words="MaxBoxAccV2: any region's box, mean over overlaps of 0.3, 0.5 and 0.7"),
}


FAITHFULNESS: dict[str, Measure] = {
    "insertion": Measure(title="insertion", words="area under the text's probability while salient pixels appear"),
    "deletion": Measure(
        title="deletion", words="area under it while salient pixels are taken away", higher_is_better=False
    ),
    "drop": Measure(
        title="drop", words="share of the probability lost when the picture is multiplied by its map",
        higher_is_better=False,
    ),
    "increase": Measure(title="increase", words="share of pictures whose probability rises then"),
    "moved": Measure(
        title="moved", words="counterfactual: how much of the map leaves the place, in percentage points, when what is "
        "named is not drawn", digits=1,
    ),
    "recognised": Measure(
        title="PG 2x2", words="pointing game of several objects: of four pictures in one, the name's map is highest in "
        "its own (chance 0.25)",
    ),
    "randomised": Measure(
        title="random weights", words="rank correlation with the map of the tower with random weights: near 0 is sane",
        higher_is_better=None,
    ),
    "flip": Measure(title="flip", words="cosine of the mirrored picture's map with the mirrored map"),
}  # fmt: skip


COST: dict[str, Measure] = {
    "seconds": Measure(title="s / image", words="seconds per image", higher_is_better=None, digits=4),
    "peak_mb": Measure(
        title="MB", words="memory at its peak above what was in use before", higher_is_better=None, digits=0
    ),
}


MEASURES: dict[str, Measure] = {**LOCALISATION, **FAITHFULNESS, **COST}
"""Every column of the benchmark's table."""

"""Read which labels are to be reviewed, and in which order: the sample of an audit, or any table of keys."""

import numpy as np
from jaxtyping import Int

from ecor.config.checks import require
from ecor.data.name_parsing import normalise_name
from ecor.data.tables import read_rows
from pipelines.review.label_index import LabelIndex


def read_review_sample(path: str, *, index: LabelIndex) -> Int[np.ndarray, " n"]:
    """Numbers of the labels of a table with a column `key`, in its order.

    Args:
        path: CSV, JSON Lines or Parquet; columns `category` and `rationale`, if any, must be those of the labels.
        index: the labels.

    Raises:
        ValueError: naming the row, for a key that no label has or that comes twice, and for a row of another label.
    """
    numbers: dict[int, None] = {}
    for row in read_rows(path, required=("key",), optional=("category", "rationale")):
        key = row.text("key") or ""
        # an audit's file has an apostrophe before what a spreadsheet takes for a formula
        number = max(index.find([key, key.removeprefix("'")]).tolist())
        if number < 0:
            raise row.error("key", "is no key of these labels: name the sample of an audit of them")
        if number in numbers:
            raise row.error("key", "comes twice")
        for name, ours in (("category", index.category(number)), ("rationale", index.rationale(number))):
            shown = row.text(name)
            if shown and normalise_name(ours) not in map(normalise_name, (shown, shown.removeprefix("'"))):
                raise row.error(name, f"is not the label's ({ours}): name the sample of an audit of these labels")
        numbers[number] = None
    require(bool(numbers), f"{path} has no rows: there is nothing to review")
    return np.array(list(numbers), dtype=np.int64)

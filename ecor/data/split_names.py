"""Names of splits: which folders and cells stand for training, validation or test images.

Not in the paper: people call the same three splits by many names, and a test image that is taken for a training image
is learned from.
"""

import re
from collections.abc import Sequence

_WORDS = {
    "train": "train(?:ing)?",
    "validation": "val(?:id(?:ation)?)?|dev(?:el(?:opment)?)?",
    "test": "test(?:ing)?|eval(?:uation)?|hold[ _-]?out",
}
"""Words for each split. `eval` is test, our choice: it is then never trained on."""
_BESIDE = "(?:data(?:set)?|images?|imgs?|seg|sets?|splits?)"
"""Words that may stand beside the split's own, as in `test_set` and `seg_train`."""
_SPLITS = "|".join(f"(?P<{split}>{words})" for split, words in _WORDS.items())
_NAME = re.compile(rf"(?:{_BESIDE}[ _-]?)?(?:{_SPLITS})(?:[ _-]?{_BESIDE}){{0,2}}[ _-]?\d{{0,4}}")
_PART = re.compile(rf"(?<![^\W\d_])(?:{_SPLITS})(?![^\W\d_])")


def split_of(name: str) -> str | None:
    """The split that a name stands for; None for other names.

    `Train`, `train2017`, `training_set` and `seg_train` are `train`, `dev` is `validation`, `holdout` is `test`.
    """
    found = _NAME.fullmatch(name.strip().casefold())
    return None if found is None else found.lastgroup


def split_parts(name: str) -> set[str]:
    """The splits whose words are a part of the name: `testA` and `hat_test` have `test`, `contest` has none.

    Such a name may be that of a split, or of a category like `test tube`.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    return {found.lastgroup for found in _PART.finditer(apart) if found.lastgroup}


def all_resemble_splits(names: Sequence[str]) -> bool:
    """Whether all names have a split's word in them, and not all of them that of the same split."""
    parts = [split_parts(name) | ({split} if (split := split_of(name)) else set()) for name in names]
    return all(parts) and len(set().union(*parts)) > 1

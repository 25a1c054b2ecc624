"""The same three splits, by the names that people give them; a name that only begins alike is none."""

import pytest

from ecor.data.split_names import all_resemble_splits, split_of, split_parts


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "train") for name in ("train", "Train", "TRAIN", "training", "train2017", "train_2017")],
        *[(name, "train") for name in ("training_set", "seg_train", "train_images", "train data", "trainset")],
        *[(name, "validation") for name in ("val", "Val", "valid", "validation", "val2017", "Validation")],
        *[(name, "validation") for name in ("val_data", "dev", "dev-set", "data_val", "validation_split")],
        *[(name, "test") for name in ("test", "Test", "testing", "test-2017", " test ")],
        *[
            (name, "test")
            for name in ("Test_Set", "seg_test", "test_images", "eval", "evaluation", "holdout", "hold-out")
        ],
        *[(name, None) for name in ("trains", "tester", "value", "valley", "contest", "", "2017", "train20170101")],
        *[(name, None) for name in ("test tube", "device", "images", "set", "data set", "testA", "evaluate")],
    ],
)
def test_names_of_splits(name: str, split: str | None):
    assert split_of(name) == split


def test_parts_of_names_that_may_be_splits():
    assert split_parts("testA") == split_parts("hat_test") == split_parts("test tube") == {"test"}
    assert split_parts("contest") == split_parts("latest") == split_parts("valley") == set()
    assert all_resemble_splits(["trainA", "testA", "trainB", "testB"])
    assert not all_resemble_splits(["test tube", "bullet train", "hat"])
    assert not all_resemble_splits(["trainA", "trainB"]) and not all_resemble_splits([])


def test_a_long_name_takes_no_time():
    assert split_of("dataset" * 40) is None and split_of("train" + "_set" * 60) is None

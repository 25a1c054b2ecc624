"""Maps by the model of `ecor review --model`: what they are, when it is loaded, and what the page gets meanwhile.

Covers: `pipelines.review.server.label_explainer`.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ecor.checkpoint import load
from ecor.data.heatmap_codec import STEPS, Evidence
from ecor.data.images.preprocessing import image_to_pixels
from ecor.explain.attribution import explain
from ecor.explain.targets import CategoryGivenRationale, Rationale
from pipelines.reporting.embedded_image import MissingPictureError
from pipelines.review.server import model_maps
from pipelines.review.server.label_explainer import LabelExplainer
from pipelines.review.server.model_maps import ModelMaps
from pipelines.review.server.picture_cache import NUM_DECODERS
from pipelines.scoring.predictors import METHOD_WITHOUT_OTHERS
from tests.support.overflowing_model import overflowing_recognizer, white_and_grey
from tests.support.review_labels import Client, evidence, running_review, write_reviewed_labels
from tests.support.tiny_models import OTHER_NAMES, tiny_checkpoint, tiny_recognizer
from tests.support.tiny_splits import VOCABULARY

DEADLINE_S = 60


def wait_for(condition: Callable[[], Any]) -> Any:
    """The first value that is true."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found


def ask_until_done(client: Client, number: int) -> Any:
    """What the page gets when a reviewer asks for the evidence: the model's maps, or why there are none."""
    found = client.get(f"/api/evidence/{number}", start=1)
    if found["state"] != "loading":
        return found
    return wait_for(lambda: (found := client.get(f"/api/evidence/{number}"))["state"] != "loading" and found)


class BlockedExplainer:
    """Explains when it is released; counts who is in it at once."""

    model_digest = "m" * 64

    def __init__(self) -> None:
        self.released = threading.Event()
        self.num_inside = self.most_inside = self.num_calls = 0

    def __call__(self, picture: Image.Image, *, category: str, rationale: str) -> Evidence:
        self.num_calls += 1
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        assert self.released.wait(DEADLINE_S)
        self.num_inside -= 1
        return evidence(0)


# --------------------------------------------------------------------------------------------------- what maps are


def test_maps_are_those_of_the_labels_own_names_whatever_else_is_in_the_vocabulary(tmp_path: Path) -> None:
    model = tiny_recognizer(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8))
    pixels = torch.from_numpy(image_to_pixels(picture, preprocess=model.backbone.preprocess))[None]
    for names in (VOCABULARY, OTHER_NAMES):
        named = model.with_vocabulary(names)
        category, rationale = named.vocabulary.categories[-1], named.vocabulary.rationales[-1]
        targets = [CategoryGivenRationale(category=category, rationale=rationale), Rationale(name=rationale)]
        expected = explain(named, pixels, targets, by=METHOD_WITHOUT_OTHERS).scores[0].numpy()
        found = LabelExplainer(model, method=METHOD_WITHOUT_OTHERS)(picture, category=category, rationale=rationale)
        assert (found.category, found.method) == (category, METHOD_WITHOUT_OTHERS)
        assert [each.rationale for each in found.maps] == [None, rationale]
        for one, scores in zip(found.maps, expected, strict=True):
            assert scores.max() > scores.min()
            step = (one.high - one.low) / STEPS
            assert_close(one.scores, scores.astype(float), rtol=0, atol=step / 2 + 1e-6)


def test_a_picture_that_the_model_cannot_encode_has_no_maps(tmp_path: Path) -> None:
    explainer = LabelExplainer(overflowing_recognizer(tmp_path), method=METHOD_WITHOUT_OTHERS)
    white, grey = (Image.fromarray(each.transpose(1, 2, 0)) for each in white_and_grey())
    with pytest.raises(MissingPictureError, match="has a feature of NaN or infinity"):
        explainer(white, category="fox", rationale="pointed ears")
    assert len(explainer(grey, category="fox", rationale="pointed ears").maps) == 2


# ------------------------------------------------------------------------------------------------------ the server


def test_the_first_question_loads_the_model_and_its_maps_are_served(tmp_path: Path) -> None:
    saved = tiny_checkpoint(tmp_path / "run")
    digest = load(saved.folder).digest
    labels = write_reviewed_labels(tmp_path, num=6, model_digest=digest)
    with running_review(labels, model=str(tmp_path / "run")) as running:
        client, maps = running.client(), running.service.model_maps
        assert maps is not None and client.get("/api/evidence/1")["state"] == "not asked for"
        assert b"&#34;hasModel&#34;: true" in client.ask("GET", "/").body
        assert client.get("/api/label/1")["maps"] == [] and maps._explainer is None
        assert client.ask("GET", "/model-map/1/0").status == 404, "a picture alone loads nothing"
        found = ask_until_done(client, 1)
        assert found == {
            "state": "loaded", "note": "", "maps": ["fox", "a bushy tail"], "method": METHOD_WITHOUT_OTHERS,
        }  # fmt: skip
        pictures = [client.ask("GET", f"/model-map/1/{place}") for place in range(2)]
        assert {each.headers["content-type"] for each in pictures} == {"image/webp"}
        assert {each.headers["cache-control"] for each in pictures} == {"no-store"}
        plain = client.ask("GET", "/picture/1/large").body
        assert len({plain, *(each.body for each in pictures)}) == 3
        assert client.ask("GET", "/model-map/1/2").status == 404
        assert client.ask("GET", "/model-map/1/2").body == b"there is no map 2 of this image, only 2"
        assert client.ask("GET", "/model-map/9/0").status == client.ask("GET", "/api/evidence/9").status == 400
        maps._explainer = None  # from now on, only what is kept
        assert client.ask("GET", "/model-map/1/0").body == pictures[0].body
        assert client.get("/api/evidence/1")["maps"] == found["maps"]


def test_another_model_than_that_of_the_labels_is_named(tmp_path: Path) -> None:
    labels = write_reviewed_labels(tmp_path, num=2)
    digest = load(tiny_checkpoint(tmp_path / "run").folder).digest
    with running_review(labels, model=str(tmp_path / "run")) as running:
        found = ask_until_done(running.client(), 1)
    assert len(found["maps"]) == 2 and found["note"] == (
        f"These maps are of another model ({tmp_path / 'run'}, {digest[:12]}…) than the one that made the labels "
        f"({'m' * 12}…)."
    )


def test_a_model_that_cannot_be_loaded_is_one_line_and_can_be_asked_for_again(tmp_path: Path) -> None:
    labels = write_reviewed_labels(tmp_path, num=2)
    with running_review(labels, model=str(tmp_path / "run")) as running:
        client = running.client()
        found = ask_until_done(client, 1)
        assert found["state"] == "failed" and found["maps"] == []
        assert found["note"].startswith("The model cannot be loaded: ") and str(tmp_path / "run") in found["note"]
        assert "\n" not in found["note"]
        assert client.get("/api/evidence/1") == found, "it is not loaded again unless a reviewer asks"
        assert client.post("/api/decide", verdict="accept", numbers=[1]).status == 200
        tiny_checkpoint(tmp_path / "run")
        assert len(ask_until_done(client, 1)["maps"]) == 2


def test_without_a_model_there_are_no_maps_on_demand(tmp_path: Path) -> None:
    with running_review(write_reviewed_labels(tmp_path, num=2)) as running:
        client = running.client()
        assert b"&#34;hasModel&#34;: false" in client.ask("GET", "/").body
        for path, status in (("/api/evidence/1", 400), ("/api/evidence/1?start=1", 400), ("/model-map/1/0", 404)):
            answer = client.ask("GET", path)
            assert answer.status == status and b"start the review with --model" in answer.body


def test_a_picture_that_is_gone_has_no_maps_and_says_why(tmp_path: Path) -> None:
    labels = write_reviewed_labels(tmp_path, num=2)
    tiny_checkpoint(tmp_path / "run")
    with running_review(labels, model=str(tmp_path / "run")) as running:
        client = running.client()
        assert len(ask_until_done(client, 0)["maps"]) == 2
        for shard in (tmp_path / "shards" / "test").glob("*.tar"):
            shard.unlink()
        answer = client.ask("GET", "/api/evidence/1")
        assert answer.status == 404 and b"not found" in answer.body


# --------------------------------------------------------------------------------------------------- while it works


def test_the_page_is_served_while_the_model_loads_and_while_it_explains(tmp_path: Path) -> None:
    explainer, loading = BlockedExplainer(), threading.Event()

    def open_explainer() -> BlockedExplainer:
        assert loading.wait(DEADLINE_S)
        return explainer

    with running_review(write_reviewed_labels(tmp_path, num=12), model="ecor-demo") as running:
        maps = ModelMaps(open_explainer, model="ecor-demo", labels_model_digest="m" * 64)
        object.__setattr__(running.service, "model_maps", maps)
        running.service.pictures._model_maps = maps
        client = running.client()
        for _ in range(3):
            found = client.get("/api/evidence/1", start=1)
            assert found["state"] == "loading" and found["note"] == "The model ecor-demo is loading."
            assert client.get("/api/groups")["num_groups"] and client.ask("GET", "/picture/3").status == 200
        loading.set()
        wait_for(lambda: maps.status.state == "loaded")
        asking = [
            threading.Thread(target=client.get, args=(f"/api/evidence/{number}",)) for number in range(NUM_DECODERS + 2)
        ]
        for each in asking:
            each.start()
        wait_for(lambda: explainer.num_inside)
        for number in range(6, 12):  # pictures that are not in the cache: no decoder waits for the model
            assert client.ask("GET", f"/picture/{number}").status == 200
        assert explainer.num_inside == 1
        explainer.released.set()
        for each in asking:
            each.join(DEADLINE_S)
        assert (explainer.most_inside, explainer.num_calls) == (1, NUM_DECODERS + 2)


def test_explanations_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = BlockedExplainer()
    explainer.released.set()
    maps = ModelMaps(lambda: explainer, model="m", labels_model_digest="m" * 64)
    with pytest.raises(MissingPictureError, match="not loaded yet"):
        maps.explain(0, lambda number: Image.new("RGB", (4, 4)), category="fox", rationale="ears")
    maps.start_loading()
    maps.close()
    monkeypatch.setattr(model_maps, "MOST_EXPLAINED", 3)
    for number in (0, 1, 0, 2, 3, 0, 1):
        maps.explain(number, lambda number: Image.new("RGB", (4, 4)), category="fox", rationale="ears")
    assert list(maps._kept) == [3, 0, 1] and explainer.num_calls == 5


def test_an_error_of_any_kind_while_loading_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> BlockedExplainer:
        raise RuntimeError("CUDA error:\n  out of memory")

    maps = ModelMaps(fail, model="m", labels_model_digest="m" * 64)
    maps.start_loading()
    maps.close()
    assert maps.status.state == "failed"
    assert maps.status.note == "The model cannot be loaded: CUDA error: out of memory"
    assert "RuntimeError" in capsys.readouterr().err, "a bug has its traceback in the terminal"

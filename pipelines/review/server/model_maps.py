"""Maps of the evidence for labels that hold none, by a model that is loaded when the first map is asked for.

The model is loaded in a thread of its own, so the page is served meanwhile. It explains one picture at a time.
"""

import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from ecor.data.heatmap_codec import Evidence
from pipelines.reporting.embedded_image import MissingPictureError

MOST_EXPLAINED = 1000
"""Explanations that are kept, the last used ones: about 1 kB each, on the grid of the tower."""
_END_AFTER_S = 10
"""Given to the loading of a model when the server stops."""


class Explainer(Protocol):
    """A loaded model with an attribution method."""

    @property
    def model_digest(self) -> str:
        """Of the model without its vocabulary, as labels name it."""

    def __call__(self, picture: Image.Image, *, category: str, rationale: str) -> Evidence:
        """Make two maps of a picture: of the category given the rationale, and of the rationale."""


LoadState = Literal["not asked for", "loading", "loaded", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStatus:
    """How far the model is."""

    state: LoadState
    note: str = ""
    """A line for the page; empty: there is nothing to say."""


class ModelMaps:
    """Explains the labels of one folder; safe for several threads."""

    def __init__(self, open_explainer: Callable[[], Explainer], *, model: str, labels_model_digest: str) -> None:
        """
        Args:
            open_explainer: loads the model; takes seconds, and may raise any error.
            model: its address, for people.
            labels_model_digest: digest of the model that made the labels.
        """
        self._open_explainer = open_explainer
        self._model = model
        self._labels_model_digest = labels_model_digest
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._status = LoadStatus(state="not asked for")
        self._thread: threading.Thread | None = None
        self._explainer: Explainer | None = None
        self._kept: OrderedDict[int, Evidence] = OrderedDict()

    @property
    def status(self) -> LoadStatus:
        return self._status

    def start_loading(self) -> None:
        """Load the model, unless it is loaded or on its way; after a failure, try again."""
        with self._lock:
            if self._status.state in ("loading", "loaded"):
                return
            self._status = LoadStatus(state="loading", note=f"The model {self._model} is loading.")
            self._thread = threading.Thread(target=self._load, name="load model", daemon=True)
            self._thread.start()

    def explain(
        self, number: int, read_picture: Callable[[int], Image.Image], *, category: str, rationale: str
    ) -> Evidence:
        """The maps of a label; waits while another picture is explained.

        Args:
            number: of the label.
            read_picture: returns the picture of a label.
            category: of the label.
            rationale: of the label.

        Raises:
            MissingPictureError: when the model is not loaded, or the picture cannot be read or encoded.
            ValueError: for a name that the model cannot read.
        """
        with self._one_at_a_time:
            found = self._kept.get(number)
            if found is None:
                if self._explainer is None:
                    raise MissingPictureError(self._status.note or "the model is not loaded yet")
                found = self._explainer(read_picture(number), category=category, rationale=rationale)
                self._kept[number] = found
            self._kept.move_to_end(number)
            while len(self._kept) > MOST_EXPLAINED:
                self._kept.popitem(last=False)
            return found

    def close(self) -> None:
        """Wait a little for a model that is loading: a process that ends in the middle of it may crash."""
        if self._thread is not None:
            self._thread.join(timeout=_END_AFTER_S)

    def _load(self) -> None:
        try:
            self._explainer = self._open_explainer()
        except Exception as error:  # noqa: BLE001 - reported on the page, which goes on without the model
            if not isinstance(error, (ValueError, OSError)):
                traceback.print_exception(error, file=sys.stderr)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._status = LoadStatus(state="failed", note=f"The model cannot be loaded: {reason}")
            return
        self._status = LoadStatus(state="loaded", note=self._describe_difference(self._explainer.model_digest))

    def _describe_difference(self, digest: str) -> str:
        if digest == self._labels_model_digest:
            return ""
        return (
            f"These maps are of another model ({self._model}, {digest[:12]}…) than the one that made the labels "
            f"({self._labels_model_digest[:12]}…)."
        )

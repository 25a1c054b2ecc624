"""Laws of the registered model: it stands alone, any form of an image gives the same row, a bad one is told.

Covers: `pipelines.tracking.model_package`.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc.scoring_server import infer_and_parse_data
from PIL import Image

from ecor.checkpoint import load, save_checkpoint
from ecor.config.scoring import ScoringConfig
from ecor.data.vocabulary import vocabulary_from_mapping
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import RegisterConfig
from pipelines.tracking import model_registry as registry
from pipelines.tracking.model_package import REQUIREMENTS
from pipelines.tracking.model_versions import ModelVersion
from tests.support.mlflow_databases import new_database
from tests.support.tiny_models import NAMES, OTHER_NAMES, tiny_checkpoint, write_pictures

STANDS_ALONE = """
import importlib.util, json, sys
sys.path.append(sys.argv.pop(1))  # the libraries, without the .pth files that install this project for development
import mlflow, pandas as pd
assert importlib.util.find_spec("pipelines") is None and importlib.util.find_spec("ecor") is None
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
rows = model.predict(pd.DataFrame({"image": sys.argv[3:]}), params={"top_k": 3})
import ecor
print(json.dumps({"ecor": ecor.__file__, "rows": rows.to_dict(orient="records")}))
"""


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    return new_database(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("run")).folder


@pytest.fixture(scope="module")
def version(tracking: TrackingConfig, checkpoint_folder: str) -> ModelVersion:
    return registry.register_model(RegisterConfig(checkpoint=checkpoint_folder, name="tiny"), tracking=tracking)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"), num=4)


@pytest.fixture(scope="module")
def served(tracking: TrackingConfig, version: ModelVersion) -> mlflow.pyfunc.PyFuncModel:
    record = client_version(tracking, version)
    return mlflow.pyfunc.load_model(record.source)


def client_version(tracking: TrackingConfig, version: ModelVersion) -> mlflow.entities.model_registry.ModelVersion:
    client = mlflow.MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    return client.get_model_version(version.name, str(version.version))


def test_every_form_of_an_image_gives_the_row_of_the_recognizer(
    served: mlflow.pyfunc.PyFuncModel, checkpoint_folder: str, pictures: list[Path]
) -> None:
    expected = load(checkpoint_folder).predict(pictures, scoring=ScoringConfig(top_k=2)).to_pandas()
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    forms: list[pd.DataFrame | list[str] | list[bytes]] = [
        [str(path) for path in pictures],
        [path.read_bytes() for path in pictures],
        pd.DataFrame({"image": [str(path) for path in pictures]}),
        pd.DataFrame({"image": [path.read_bytes() for path in pictures]}),
        pd.DataFrame({"image": encoded}),
        pd.DataFrame({"image": [f"data:image/png;base64,{text}" for text in encoded]}),
    ]
    for form in forms:
        rows = served.predict(form, params={"top_k": 2})
        assert list(rows["category"]) == list(expected["category"])
        assert list(rows["confidence"]) == pytest.approx(list(expected["confidence"]), abs=1e-5)
        assert [len(pairs) for pairs in rows["pairs"]] == [2] * len(pictures)
        assert rows["error"].isna().all()
        for pairs, category, rationale, confidence in zip(
            rows["pairs"], rows["category"], rows["rationale"], rows["confidence"], strict=True
        ):
            assert (pairs[0]["category"], pairs[0]["rationale"]) == (category, rationale)
            assert pairs[0]["probability"] == pytest.approx(confidence, rel=1e-5)


def test_it_holds_all_that_a_server_needs_and_no_pickle(
    served: mlflow.pyfunc.PyFuncModel, tracking: TrackingConfig, version: ModelVersion
) -> None:
    place = mlflow.artifacts.download_artifacts(client_version(tracking, version).source)
    record = Model.load(place)
    frame, params = record.load_input_example(place), record.load_input_example_params(place)
    rows = served.predict(frame, params=params)
    assert [column.name for column in record.signature.outputs] == list(rows.columns)
    assert {each.name: each.default for each in record.signature.params} == params
    pinned = (Path(place) / "requirements.txt").read_text().split()
    assert {name for name, _ in (line.split("==") for line in pinned)} == {"mlflow", *REQUIREMENTS}
    for name, wanted in (line.split("==") for line in pinned):
        assert version_of(name).partition("+")[0] == wanted
    files = {each.suffix for each in Path(place).rglob("*") if each.is_file()}
    assert ".safetensors" in files
    assert not files & {".pkl", ".pickle", ".pt", ".pth", ".bin"}


def test_a_vocabulary_parameter_changes_the_names_and_only_for_that_call(
    served: mlflow.pyfunc.PyFuncModel, pictures: list[Path]
) -> None:
    frame = pd.DataFrame({"image": [str(pictures[0])]})
    other = served.predict(frame, params={"vocabulary": json.dumps(OTHER_NAMES)})
    assert other["category"][0] in OTHER_NAMES
    assert not other["calibrated"][0]
    own = served.predict(frame)
    assert own["category"][0] in NAMES
    assert own["calibrated"][0]
    with pytest.raises(ValueError, match="the parameter vocabulary"):
        served.predict(frame, params={"vocabulary": "not json"})


def test_models_of_different_names_in_one_process_each_give_their_own_answers(
    served: mlflow.pyfunc.PyFuncModel,
    tracking: TrackingConfig,
    checkpoint_folder: str,
    pictures: list[Path],
    tmp_path: Path,
) -> None:
    """Each is loaded from code and numbers that it holds; neither finds the other's in this process."""
    vocabulary = vocabulary_from_mapping(OTHER_NAMES)
    other_folder = save_checkpoint(load(checkpoint_folder).with_vocabulary(vocabulary), tmp_path / "other").folder
    registered = registry.register_model(RegisterConfig(checkpoint=other_folder, name="other"), tracking=tracking)
    frame = pd.DataFrame({"image": [str(path) for path in pictures]})
    before = served.predict(frame)
    other = mlflow.pyfunc.load_model(client_version(tracking, registered).source)
    for model, folder, names in ((other, other_folder, OTHER_NAMES), (served, checkpoint_folder, NAMES)):
        rows, expected = model.predict(frame), load(folder).predict(pictures).to_pandas()
        assert set(rows["category"]) <= set(names)
        assert list(rows["category"]) == list(expected["category"])
        assert list(rows["rationale"]) == list(expected["rationale"])
        assert list(rows["confidence"]) == pytest.approx(list(expected["confidence"]), abs=1e-5)
        assert set(rows["vocabulary_digest"]) == {load(folder).vocabulary.digest}
    pd.testing.assert_frame_equal(served.predict(frame), before)


def test_methods_are_chosen_by_name(served: mlflow.pyfunc.PyFuncModel, pictures: list[Path]) -> None:
    frame = pd.DataFrame({"image": [str(pictures[0])]})
    for method in ("joint", "inverted", "independent", "pairs"):
        assert served.predict(frame, params={"method": method})["method"][0] == method


def test_a_bad_image_has_an_error_and_spoils_no_other(
    served: mlflow.pyfunc.PyFuncModel, pictures: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[1].read_bytes()[:60])
    frame = pd.DataFrame({"image": [str(pictures[0]), str(broken), "nowhere.png", str(pictures[2])]})
    rows = served.predict(frame)
    assert [error is None for error in rows["error"]] == [True, False, False, True]
    assert rows["error"][1].startswith(("truncated", "corrupt"))
    assert "neither a file here nor base64" in rows["error"][2]
    assert rows["category"][1] is None
    alone = served.predict(pd.DataFrame({"image": [str(pictures[2])]}))
    assert rows["confidence"][3] == pytest.approx(alone["confidence"][0], abs=1e-6)


def test_base64_as_clients_write_it_and_cells_of_several_images(
    served: mlflow.pyfunc.PyFuncModel, pictures: list[Path]
) -> None:
    """One row per image, whatever the form; these reach the model where MLflow checks no signature."""
    model = served.unwrap_python_model()
    expected = list(served.predict([str(path) for path in pictures])["category"])
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    broken = ["\n".join(text[i : i + 76] for i in range(0, len(text), 76)) for text in encoded]
    url_safe = [base64.urlsafe_b64encode(path.read_bytes()).decode().rstrip("=") for path in pictures]
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
    forms = [
        broken,
        url_safe,
        [{"b64": text} for text in encoded],
        pd.DataFrame({"image": [{"b64": text} for text in encoded]}),
        [encoded],
        [encoded[:1], encoded[1:]],
        pd.DataFrame({"image": [np.array(encoded[:2], dtype=object), np.array(encoded[2:])]}),
        arrays,
    ]
    for form in forms:
        rows = model.predict(None, form)
        assert list(rows["category"]) == expected and rows["error"].isna().all(), rows["error"].dropna().tolist()
    (row,) = model.predict(None, {"image": {"b64": encoded[0]}}).to_dict("records")
    assert row["category"] == expected[0]


def answer(served: mlflow.pyfunc.PyFuncModel, body: dict[str, Any]) -> pd.DataFrame:
    """What MLflow's server does with a request: its parser, its check of the signature, the model."""
    return served.predict(infer_and_parse_data(body, served.metadata.get_input_schema()))


def test_a_request_has_a_row_per_picture_in_every_form(served: mlflow.pyfunc.PyFuncModel, pictures: list[Path]) -> None:
    """Whatever lists and objects a client puts around them; columns beside the images are not read."""
    expected = list(served.predict([str(path) for path in pictures])["category"])
    texts = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    a, b, c, d = texts
    bodies: list[dict[str, Any]] = [
        {"inputs": texts},
        {"inputs": [texts]},
        {"inputs": [[a, b], [c, d]]},
        {"inputs": [[each] for each in texts]},
        {"inputs": {"image": texts}},
        {"inputs": {"id": [1, 2, 3, 4], "Image": texts}},
        {"inputs": [{"b64": each} for each in texts]},
        {"inputs": [{"image": each} for each in texts]},
        {"inputs": [{"id": "x", "img": {"b64": each}} for each in texts]},
        {"instances": texts},
        {"instances": [{"b64": each} for each in texts]},
        {"instances": [{"id": 1, "image": each} for each in texts]},
        {"instances": [{"image": {"b64": each}} for each in texts]},
        {"dataframe_split": {"columns": ["picture"], "data": [[each] for each in texts]}},
        {"dataframe_split": {"columns": ["id", "Image"], "data": [["x", each] for each in texts]}},
        {"dataframe_records": [{"id": "x", "image": {"b64": each}} for each in texts]},
    ]
    for body in bodies:
        rows = answer(served, body)
        assert list(rows["category"]) == expected and rows["error"].isna().all(), (list(body), rows["error"].tolist())
    for body in ({"inputs": a}, {"inputs": {"b64": a}}, {"inputs": {"image": {"b64": a}}}):
        assert list(answer(served, body)["category"]) == expected[:1]
    assert len(answer(served, {"inputs": []})) == 0


def test_a_request_of_which_the_images_are_not_clear_is_refused(
    served: mlflow.pyfunc.PyFuncModel, pictures: list[Path]
) -> None:
    """Rather than fewer rows than pictures; the status is 400."""
    a, b = (base64.b64encode(path.read_bytes()).decode() for path in pictures[:2])
    columns: list[dict[str, Any]] = [
        {"dataframe_split": {"columns": ["left", "right"], "data": [[a, b]]}},
        {"dataframe_split": {"columns": ["image", "image"], "data": [[a, b]]}},
        {"dataframe_split": {"data": [[a, b]]}},
        {"dataframe_records": [{"left": a, "right": b}]},
        {"inputs": {"a.jpg": a, "b.jpg": b}},
        {"inputs": {"a": [a], "b": [b]}},
        {"instances": [{"left": a, "right": b}]},
    ]
    for body in columns:
        with pytest.raises(MlflowException, match=r"2 columns \(.*send one column, or call it `image`") as caught:
            answer(served, body)
        assert caught.value.get_http_status_code() == 400
    with pytest.raises(MlflowException, match="2 columns"):
        served.unwrap_python_model().predict(None, {"a.jpg": a, "b.jpg": b})
    with pytest.raises(MlflowException, match="inhomogeneous"):
        answer(served, {"inputs": [[a, b], [a]]})


def test_pixels_in_json_are_one_image_that_is_not_read(served: mlflow.pyfunc.PyFuncModel) -> None:
    pixels = np.zeros((2, 2, 3), dtype=np.int64).tolist()
    model = served.unwrap_python_model()
    for rows in (model.predict(None, [pixels]), model.predict(None, pixels), model.predict(None, [[[[0, 1, 2]]]])):
        assert len(rows) == 1 and "an image is bytes, a path or base64" in rows["error"][0]
    assert len(answer(served, {"inputs": [pixels, pixels]})) == 2
    assert len(model.predict(None, [7, "nowhere.png"])) == 2


@pytest.mark.parametrize("cell", [{"url": "x"}, {"b64": 5}, 7, None, "iVBORw0KGgo" * 40, "a\0b", np.zeros((4, 4))])
def test_a_cell_that_is_no_image_is_a_row_with_an_error(served: mlflow.pyfunc.PyFuncModel, cell: Any) -> None:
    model = served.unwrap_python_model()
    (row,) = model.predict(None, pd.DataFrame({"image": pd.Series([cell], dtype=object)})).to_dict("records")
    assert row["category"] is None and row["error"] and "name too long" not in row["error"]


def test_no_image_is_no_row(served: mlflow.pyfunc.PyFuncModel) -> None:
    assert len(served.predict(pd.DataFrame({"image": []}, dtype=object))) == 0


@pytest.mark.slow
def test_it_loads_where_this_project_is_not_installed(
    tracking: TrackingConfig,
    version: ModelVersion,
    checkpoint_folder: str,
    pictures: list[Path],
    tmp_path: Path,
) -> None:
    libraries = sysconfig.get_paths()["purelib"]
    command = [sys.executable, "-I", "-S", "-c", STANDS_ALONE, libraries, str(tracking.uri), version.uri]
    told = subprocess.run([*command, *map(str, pictures)], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert str(Path(__file__).resolve().parents[3]) not in found["ecor"]
    expected = load(checkpoint_folder).predict(pictures).to_pandas()
    assert [row["category"] for row in found["rows"]] == list(expected["category"])
    confidences = [row["confidence"] for row in found["rows"]]
    assert confidences == pytest.approx(list(expected["confidence"]), abs=1e-5)


@pytest.fixture
def server(tracking: TrackingConfig, version: ModelVersion, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", version.uri, "--env-manager", "local"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "MLFLOW_TRACKING_URI": str(tracking.uri),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/ping", process=process, log=tmp_path / "server.log", timeout_s=200)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)


def wait_for(url: str, *, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"{url} did not answer in {timeout_s} s: {log.read_text()[-3000:]}")


def post(url: str, content: dict[str, object]) -> list[dict[str, object]]:
    request = urllib.request.Request(
        f"{url}/invocations", data=json.dumps(content).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_mlflow_serves_it_over_http(server: str, pictures: list[Path], checkpoint_folder: str) -> None:
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    expected = load(checkpoint_folder).predict(pictures).to_pandas()
    records = post(server, {"dataframe_records": [{"image": text} for text in encoded], "params": {"top_k": 2}})
    assert [row["category"] for row in records] == list(expected["category"])
    assert [row["confidence"] for row in records] == pytest.approx(list(expected["confidence"]), abs=1e-5)
    assert all(len(row["pairs"]) == 2 for row in records)
    others = post(server, {"inputs": encoded, "params": {"vocabulary": json.dumps(OTHER_NAMES)}})
    assert len(others) == len(pictures)
    assert {row["category"] for row in others} <= set(OTHER_NAMES)

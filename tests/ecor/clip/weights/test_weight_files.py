"""A weights file is what its content says; what is none is told in one line, with the way to safetensors."""

import argparse
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ecor.clip.weights.weight_files import load_weights


class Tower(torch.nn.Module):
    """The least that open_clip's reader of checkpoints accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
        self.proj = torch.nn.Parameter(torch.zeros(2, 3))
        self.logit_bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.proj * self.logit_scale


STATE = {"logit_scale": torch.tensor(2.0), "proj": torch.arange(6.0).reshape(2, 3)}


def scripted() -> torch.jit.ScriptModule:
    """Like OpenAI's files: a program, with constants beside the weights."""
    tower = Tower()
    tower.load_state_dict(STATE)
    for name in ("input_resolution", "context_length", "vocab_size"):
        tower.register_buffer(name, torch.tensor(7))
    return torch.jit.trace(tower, torch.zeros(1, 2))


def loaded(path: Path) -> dict[str, torch.Tensor]:
    tower = Tower()
    load_weights(tower, path, name=str(path))
    return tower.state_dict()


def told(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_weights(Tower(), path, name=str(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message) <= 500 and "\n" not in message
    assert "weights_only=True" not in message
    return message


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w.pt"])
def test_safetensors_are_loaded_under_any_name(tmp_path: Path, name: str):
    save_file(STATE, str(tmp_path / name))
    assert all(torch.equal(value, STATE[key]) for key, value in loaded(tmp_path / name).items())


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_torch_files_are_loaded_of_both_formats(tmp_path: Path, wrap, is_zip: bool, name: str):
    torch.save(wrap(STATE), tmp_path / name, _use_new_zipfile_serialization=is_zip)
    assert all(torch.equal(value, STATE[key]) for key, value in loaded(tmp_path / name).items())


FOREIGN = {
    "TorchScript program": lambda path: scripted().save(str(path)),
    "objects besides tensors (argparse.Namespace)": lambda path: torch.save(
        {"state_dict": STATE, "args": argparse.Namespace(lr=1.0)}, path
    ),
    "objects besides tensors (numpy": lambda path: torch.save({"state_dict": STATE, "best": np.float64(0.5)}, path),
    "plain pickle": lambda path: path.write_bytes(pickle.dumps({key: each.numpy() for key, each in STATE.items()})),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_with_code_is_named_and_its_recipe_makes_safetensors(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "ViT-B-32.pt"
    FOREIGN[kind](path)
    message = told(path)
    assert kind in message
    recipe = re.search(r'python -c "(.*)"$', message)
    assert recipe is not None
    monkeypatch.chdir(tmp_path)
    exec(recipe[1], {})
    assert load_file(tmp_path / "weights.safetensors").keys() == STATE.keys()
    assert all(torch.equal(value, STATE[key]) for key, value in loaded(tmp_path / "weights.safetensors").items())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "has 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605143316\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b'\n{"weight_map": {"proj": "model-00001-of-00002.safetensors"}}', "is a JSON text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file"),
        (b"\x1f\x8b\x08" + bytes(64), "is compressed by gzip"),
        (b"GGUF" + bytes(64), "is a GGUF file"),
        (b"no weights at all", "is no weights file that ecor knows"),
        (b"PK\x03\x04" + bytes(64), "is cut or damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_what_is_no_weights_is_told_as_what_it_is(tmp_path: Path, content: bytes, what: str, suffix: str):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert what in told(path)


def test_cut_files_and_other_contents_are_told(tmp_path: Path):
    torch.save([*STATE.values()], tmp_path / "list.pt")
    torch.save({}, tmp_path / "empty.pt")
    for name in ("list.pt", "empty.pt"):
        assert "holds no mapping of names to tensors" in told(tmp_path / name)
    torch.save({"model": STATE, "optimizer": {}}, tmp_path / "nested.pt")
    torch.save({f"other.{number}": torch.zeros(1) for number in range(2000)}, tmp_path / "other.pt")
    save_file({**STATE, "proj": torch.zeros(5, 5)}, str(tmp_path / "shape.safetensors"))
    for name in ("nested.pt", "other.pt", "shape.safetensors"):
        assert "does not fit the architecture" in told(tmp_path / name)
    save_file({**STATE, "proj": torch.zeros(2, 3)}, str(tmp_path / "cut.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-9])
    assert "damaged" in told(tmp_path / "cut.safetensors")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", b"")
    assert "zip archive without weights" in told(tmp_path / "photos.zip")

"""Load a weights file into a model; its content decides what it is, and no code in it is run."""

import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError
from torch import nn

from ecor.clip.open_clip_api import load_checkpoint
from ecor.clip.weights.tensor_headers import check_headers, read_headers
from ecor.config.checks import require

_HEAD_BYTES = 512
_MOST_CHARS = 160
"""Of another library's error, in ours."""
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""At the start of files of `torch.save` before version 1.6."""
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights: fetch them by `git lfs pull`",
    b"\x89HDF": "an HDF5 file, as Keras writes: ecor reads weights of open_clip",
    b"GGUF": "a GGUF file: ecor reads weights of open_clip",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"{": "a JSON text, not the weights: name the file of weights; parts of one model must be joined first",
    b"<": "a web page, not the weights: fetch them again, perhaps after a login",
}
"""What files that are no weights begin with."""
_LONGEST_NAME = 30
_SCRIPT_RECIPE = (
    "skip = ('input_resolution', 'context_length', 'vocab_size'); w = torch.jit.load('{name}', 'cpu').state_dict(); "
    "w = {{k: v.contiguous().clone() for k, v in w.items() if k not in skip}}"
)
_PICKLE_RECIPE = (
    "w = {load}; w = w.get('state_dict', w); w = {{k: torch.as_tensor(v).contiguous().clone() for k, v in w.items()}}"
)


def load_weights(model: nn.Module, path: Path, *, name: str) -> None:
    """Load a file into a model, converted as open_clip does.

    Args:
        model: of the architecture.
        path: safetensors, a `torch.save` file that holds tensors and plain values only, or big_vision's `.npz`.
        name: of the file in messages.

    Raises:
        ValueError: if the file is something else or does not fit the model, also where open_clip would interpolate
            positions. It says what the file is, and how to make
            safetensors of it.
    """
    suffix = _checked_suffix(path, name=name)
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / f"weights{suffix}"  # open_clip chooses its reader by the suffix
        link.symlink_to(path.absolute())
        with _translate_errors(path, name=name):
            headers = read_headers(link)
        check_headers(headers, model=model, name=name)
        with _translate_errors(path, name=name):
            load_checkpoint(model, str(link), strict=True, weights_only=True)


@contextmanager
def _translate_errors(path: Path, *, name: str) -> Iterator[None]:
    """Translate the errors of the libraries that read weights into a line that says what the file is."""
    try:
        yield
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        held = f" ({found[1]})" if found else ""
        recipe = _PICKLE_RECIPE.format(load=f"torch.load('{_short_name(path)}', 'cpu', weights_only=False)")
        raise _foreign_error(f"{name} holds Python objects besides tensors{held}", recipe=recipe) from error
    except (AttributeError, TypeError, StopIteration, IndexError) as error:
        raise ValueError(
            f"{name} holds no mapping of names to tensors ({shorten_error(error)}): save `model.state_dict()` as "
            "safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{name} does not fit the architecture, or is damaged: {shorten_error(error)}: fetch it again, or name "
            "the model that it is of"
        ) from error


def check_values(model: nn.Module, *, name: str) -> None:
    """Raise ValueError for weights that are not finite, and for matrices of which most hold nothing but zeros.

    Args:
        model: with its weights loaded.
        name: of the weights in messages.
    """
    parameters = dict(model.named_parameters())
    matrices, empty = 0, []
    for key, values in model.state_dict().items():
        require(
            bool(values.isfinite().all()),
            f"{name} hold NaN or infinity, in {key}: every label would be NaN; fetch or train them again",
        )
        if key in parameters and values.ndim >= 2:
            matrices += 1
            empty += [] if values.any() else [key]
    require(
        2 * len(empty) <= matrices,
        f"{name} are zero in {len(empty)} of {matrices} matrices, as {', '.join(empty[:1])}: they are no weights, or "
        "only the start of them; fetch them again",
    )


def _checked_suffix(path: Path, *, name: str) -> str:
    """The suffix of a file's content; ValueError, saying what it is, for content that is not loaded."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{name} has 0 bytes: fetch the weights again")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if int.from_bytes(head[:8], "little") <= size and head[8:9] == b"{":
        return ".safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _zip_suffix(path, name=name)
    if head.startswith(b"\x80"):
        if _TORCH_MAGIC in head:
            return ".pt"
        recipe = _PICKLE_RECIPE.format(load=f"pickle.load(open('{_short_name(path)}', 'rb'))")
        raise _foreign_error(f"{name} is a plain pickle", recipe=recipe)
    for start, what in _OTHERS.items():
        if head.lstrip().startswith(start):
            raise ValueError(f"{name} is {what}")
    known = path.suffix if path.suffix in (".safetensors", ".npy") else None
    if known is None:
        raise ValueError(f"{name} is no weights file that ecor knows: name safetensors, or a file of `torch.save`")
    return known


def _zip_suffix(path: Path, *, name: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name} is cut or damaged: fetch the weights again") from error
    if any("/code/" in each or each.endswith("constants.pkl") for each in names):
        raise _foreign_error(
            f"{name} is a TorchScript program, as OpenAI's files are",
            recipe=_SCRIPT_RECIPE.format(name=_short_name(path)),
        )
    return _array_or_torch(names, name=name)


def _array_or_torch(names: Sequence[str], *, name: str) -> str:
    if any(each.endswith("data.pkl") for each in names):
        return ".pt"
    if names and all(each.endswith(".npy") for each in names):
        return ".npz"
    raise ValueError(f"{name} is a zip archive without weights of torch: unpack it, and name the file of weights in it")


def _short_name(path: Path) -> str:
    """The name in a recipe: the command line shows 500 characters of a message."""
    return path.name if len(path.name) <= _LONGEST_NAME else "FILE"


def _foreign_error(what: str, *, recipe: str) -> ValueError:
    return ValueError(
        f'{what}, and ecor runs no code of a file. If you trust it, make safetensors of it: python -c "import pickle, '
        f"torch, safetensors.torch as s; {recipe}; s.save_file(w, 'weights.safetensors')\""
    )


def shorten_error(error: BaseException) -> str:
    """Another library's error on one line, cut where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"

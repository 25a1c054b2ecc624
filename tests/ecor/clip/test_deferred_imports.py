"""Packages that few models need are imported when first used, and then behave as if imported before.

Covers: `ecor.clip.open_clip_api`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from ecor.clip.deferred_imports import defer_imports

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("timm", "transformers", "torch._dynamo")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that nobody has imported, with a module in it."""
    folder = tmp_path / "rarely_used"
    folder.mkdir()
    (folder / "__init__.py").write_text("class Base:\n    size = 3\n\n\ndef double(number):\n    return 2 * number\n")
    (folder / "inner.py").write_text("from rarely_used import Base\n\n\nclass Derived(Base):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "rarely_used"
    for name in ("rarely_used", "rarely_used.inner"):
        sys.modules.pop(name, None)


def test_a_placeholder_stands_for_the_real_thing(package: str) -> None:
    with defer_imports(package):
        import rarely_used
        from rarely_used import Base, double
        from rarely_used.inner import Derived
    assert package not in sys.modules
    assert double(4) == 8
    assert package in sys.modules
    assert isinstance(Derived(), Base)
    assert not isinstance(3, Base)
    assert Derived.size == rarely_used.Base.size == 3
    assert rarely_used.double(1) == 2

    class Subclass(Base):
        pass

    assert Subclass.__mro__[1] is sys.modules[package].Base


def test_after_the_block_imports_are_as_always(package: str) -> None:
    finders = list(sys.meta_path)
    with pytest.raises(RuntimeError, match="inside"), defer_imports(package):
        raise RuntimeError("inside")
    assert sys.meta_path == finders
    import rarely_used.inner as real

    assert real.Derived.__mro__[1] is sys.modules[package].Base


def test_what_is_imported_already_is_not_deferred(package: str) -> None:
    import rarely_used as real

    with defer_imports(package):
        import rarely_used as again
        from rarely_used.inner import Derived
    assert again is real
    assert issubclass(Derived, real.Base)


def test_what_is_not_installed_is_an_import_error() -> None:
    with defer_imports("no_such_package_here"), pytest.raises(ModuleNotFoundError):
        import no_such_package_here  # noqa: F401


def run_alone(code: str) -> list[str]:
    """The words that a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.split()


def test_a_model_without_such_towers_labels_a_picture_without_them() -> None:
    code = f"""
import sys, ecor
from PIL import Image
model = ecor.Recognizer.zero_shot({{"fox": ["pointed ears"], "whale": ["a tail fin"]}})
print(len(model.predict([Image.new("RGB", (64, 64))]).to_pandas()), [x for x in {HEAVY} if x in sys.modules])
"""
    assert run_alone(code) == ["1", "[]"]


def test_a_tower_of_timm_an_operator_of_torchvision_and_the_names_of_transformers_work_later() -> None:
    code = """
import torch
from ecor.clip.open_clip_api import open_clip
tower = open_clip.timm_model.TimmModel("resnet18", 16, image_size=32).eval()
print(tuple(tower(torch.zeros(1, 3, 32, 32)).shape) == (1, 16))
import torchvision
boxes = torch.tensor([[0.0, 0.0, 3.0, 3.0]])
print(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), [boxes], output_size=1).item() == 1.0)
import torch._dynamo, transformers
print(torch._dynamo.is_compiling() is False)
print(open_clip.hf_model.AutoConfig.for_model("bert").model_type == "bert")
print(isinstance(open_clip.coca_model.LogitsProcessorList(), transformers.LogitsProcessorList))
"""
    assert run_alone(code) == ["True"] * 5

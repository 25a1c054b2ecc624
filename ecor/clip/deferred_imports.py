"""Import a package without the packages that it imports for rare uses: these are imported when first used."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@contextmanager
def defer_imports(*packages: str) -> Iterator[None]:
    """In this block, `import P` and `from P.x import y` of the named packages give placeholders.

    A placeholder imports what it stands for when it is called, subclassed or asked for an attribute, so the importing
    module behaves as before. After the block, imports are as always. A package that is not installed, or is imported
    already, is not deferred.
    """
    finder = _DeferringFinder([name for name in packages if name not in sys.modules and find_spec(name) is not None])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget_placeholders()


class DeferredName:
    """Stands for `name` of `module` until it is used."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        _refuse_special(name)
        return getattr(self._load(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._load())

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._load())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._load(),)

    def _load(self) -> Any:
        return getattr(import_module(self._module), self._name)


class _DeferredModule(ModuleType):
    def __getattr__(self, name: str) -> DeferredName:
        _refuse_special(name)
        return DeferredName(self.__name__, name)


class _DeferringFinder(MetaPathFinder, Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_own = threading.get_ident() == self._thread  # another thread may import one of them for real
        deferred = is_own and any(f"{fullname}.".startswith(f"{package}.") for package in self._packages)
        return ModuleSpec(fullname, self, is_package=True) if deferred else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """A placeholder has nothing to run."""


def _forget_placeholders() -> None:
    """Remove placeholders from `sys.modules` and from their parents, so that later imports find the real modules."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, _DeferredModule):
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if vars(sys.modules.get(parent, ModuleType(parent))).get(child) is module:
                delattr(sys.modules[parent], child)


def _refuse_special(name: str) -> None:
    """Names that Python itself asks for, such as `__wrapped__`, must not import anything."""
    if name.startswith("__"):
        raise AttributeError(name)

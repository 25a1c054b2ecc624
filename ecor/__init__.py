"""Label images with a category and the rationales for it: ECOR (arXiv:2404.12839) on CLIP, in pure torch."""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Heat maps that show where an image holds the evidence for a category or a rationale."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

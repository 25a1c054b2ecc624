"""Images in, labels with their reasons out: ECOR (arXiv:2404.12839) on CLIP, in pure torch."""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["demo"],
    submod_attrs={
        "checkpoint": ["load"],
        "config": ["BackboneConfig", "PromptConfig", "ScoringConfig", "TemplateConfig", "TextConfig"],
        "model": ["Recognizer"],
        "vocabulary": ["Vocabulary", "read_vocabulary"],
    },
)

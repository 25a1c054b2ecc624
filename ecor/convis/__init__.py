"""Concept Visualization: rank the concepts of a lexicon by patch, and map where a concept is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "concept_features": ["ConceptFeatures", "encode_concepts"],
        "concept_visualization": ["ConVis", "ConceptRanks"],
        "lexicon": ["Lexicon", "ListLexicon", "read_lexicon"],
        "wordnet": ["WordNetLexicon"],
    },
)

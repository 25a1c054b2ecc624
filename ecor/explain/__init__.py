"""A model and pictures in, heat maps out: where the evidence for a category or a rationale is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "concepts": ["ConceptFeatures", "encode_concepts"],
        "convis": ["ConVis", "ConceptRanks"],
        "eclip": ["load_eclip"],
        "explainer": ["JointHeatmaps", "attribute", "explain", "explain_joint"],
        "heatmap": ["Frame", "Heatmap", "frame_of"],
        "lexicon": ["Lexicon", "ListLexicon", "WordNetLexicon", "read_lexicon"],
        "methods": ["METHODS", "Method", "method"],
        "scorer": ["Scorer"],
        "targets": ["Category", "CategoryGivenRationale", "Concept", "FreeText", "Rationale"],
        "text_trace": ["TextTrace", "trace_text"],
        "trace": ["ImageTower", "ImageTrace"],
    },
)

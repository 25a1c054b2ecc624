"""Heat maps of where the evidence for a category or a rationale is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attribution": ["JointHeatmaps", "attribute", "explain", "explain_joint"],
        "methods.captum_adapter": ["Scorer"],
        "methods.registry": ["METHODS", "Method", "method"],
        "targets": ["Category", "CategoryGivenRationale", "Concept", "FreeText", "Rationale"],
    },
)

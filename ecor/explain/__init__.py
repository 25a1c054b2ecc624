"""Heat maps of where the evidence for a category or a rationale is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attribution": ["JointHeatmaps", "attribute", "explain", "explain_joint"],
        "methods.captum_adapter": ["CosineForward"],
        "methods.registry": ["METHODS", "Method", "build_method", "missing_requirement"],
        "targets": ["Category", "CategoryGivenRationale", "Concept", "FreeText", "Rationale"],
    },
)

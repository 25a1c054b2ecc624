"""Prompt templates: build the sentences of rationales, categories and pairs of both."""

from string import Formatter

from ecor.config import TemplateConfig

_PLACEHOLDERS = {
    "rationale": ("rationale",),
    "category": ("category",),
    "category_given_rationale": ("category", "rationale"),
}


def check_templates(templates: TemplateConfig) -> None:
    """Raise ValueError, naming the template, unless each has exactly its own plain placeholders, each once."""
    for name, expected in _PLACEHOLDERS.items():
        template = getattr(templates, name)
        if sorted(_placeholders(template, name=name)) != sorted(expected):
            wanted = " and ".join(f"{{{placeholder}}}" for placeholder in expected)
            raise ValueError(f"template {name} must hold {wanted} once and no other placeholder, got {template!r}")


def rationale_sentence(templates: TemplateConfig, rationale: str) -> str:
    """Prompt_R around one rationale."""
    return templates.rationale.format(rationale=rationale)


def category_sentence(templates: TemplateConfig, category: str) -> str:
    """The sentence of a category alone."""
    return templates.category.format(category=category)


def pair_sentence(templates: TemplateConfig, category: str, rationale: str) -> str:
    """Prompt_{c|R} around a category and one rationale."""
    return templates.category_given_rationale.format(category=category, rationale=rationale)


def _placeholders(template: str, *, name: str) -> list[str]:
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"template {name} is not a format string: {template!r}: {error}") from error
    for field_name, spec, conversion in fields:
        if spec or conversion:
            raise ValueError(f"template {name}: write {{{field_name}}} without a format, got {template!r}")
    return [str(field_name) for field_name, _, _ in fields]

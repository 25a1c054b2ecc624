"""Prompt templates: build the sentences of rationales, categories and pairs of both."""

from string import Formatter

from ecor.config.model import TemplateConfig

_PLACEHOLDERS = {
    "rationale": ("rationale",),
    "category": ("category",),
    "category_given_rationale": ("category", "rationale"),
}


def check_templates(templates: TemplateConfig) -> None:
    """Check that each template has exactly its own plain placeholders, each once.

    Raises:
        ValueError: naming the template that has not.
    """
    for name, expected in _PLACEHOLDERS.items():
        template = getattr(templates, name)
        if sorted(_placeholders(template, name=name)) != sorted(expected):
            wanted = " and ".join(f"{{{placeholder}}}" for placeholder in expected)
            raise ValueError(f"template {name} must hold {wanted} once and no other placeholder, got {template!r}")


def rationale_sentence(templates: TemplateConfig, rationale: str) -> str:
    """Build Prompt_R around one rationale.

    Args:
        templates: checked by `check_templates`.
        rationale: its name.
    """
    return templates.rationale.format(rationale=rationale)


def category_sentence(templates: TemplateConfig, category: str) -> str:
    """Build the sentence of a category alone.

    Args:
        templates: checked by `check_templates`.
        category: its name.
    """
    return templates.category.format(category=category)


def pair_sentence(templates: TemplateConfig, category: str, rationale: str) -> str:
    """Build Prompt_{c|R} around a category and one rationale.

    Args:
        templates: checked by `check_templates`.
        category: its name.
        rationale: its name.
    """
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

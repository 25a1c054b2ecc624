"""Open a concept lexicon by name: the demo's, a JSON file, or WordNet above a list of words."""

from ecor.clip.backbone import Backbone
from ecor.convis.concept_features import ConceptFeatures, encode_concepts
from ecor.convis.lexicon import ListLexicon, read_lexicon
from ecor.convis.wordnet import WordNetLexicon
from ecor.demo.lexicon import demo_lexicon
from ecor.storage import filesystem
from pipelines.config.addresses import check_address
from pipelines.runtime.console import say


def open_lexicon(name: str) -> ListLexicon:
    """Open a lexicon by name.

    Args:
        name: `demo`; the path of a JSON file (`ecor.convis.lexicon.read_lexicon`); or `wordnet:<path>`, a text file of
            one word per line. A WordNet lexicon holds all meanings of the words and all hypernyms of these. WordNet's
            files are Debian's wordnet-base, $WNSEARCHDIR, or `wordnet:<path>,<folder>`. Each path may be an address of
            a store.

    Raises:
        ValueError: for a file of another kind, and as `WordNetLexicon` and `check_address`.
    """
    if name == "demo":
        return demo_lexicon()
    kind, marker, path = name.partition(":")
    if kind == "wordnet" and marker:
        listed, _, folder = path.partition(",")
        for place in (listed, folder):
            check_address(place, name="the lexicon")
        try:
            words = [line.strip() for line in filesystem.read(listed).decode("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}: {listed!r} is no text file of words, one a line: {error}") from error
        return WordNetLexicon(folder or None).taxonomy(word for word in words if word)
    check_address(name, name="the lexicon")
    return read_lexicon(name)


def open_concepts(name: str, *, backbone: Backbone) -> ConceptFeatures:
    """Encode the concepts of a lexicon with a text tower; prints how many definitions are truncated.

    Args:
        name: as `open_lexicon` takes it.
        backbone: its text tower encodes the definitions.

    Raises:
        ValueError: as `open_lexicon`.
    """
    concepts = encode_concepts(backbone, open_lexicon(name))
    if concepts.num_cut:
        say(
            f"{name}: {concepts.num_cut} of {len(concepts.lexicon.concepts)} definitions are longer than the "
            f"{backbone.context_length} tokens that the text tower reads, and are cut there",
        )
    return concepts

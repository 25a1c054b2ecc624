"""A small WordNet in the format wndb(5WN), for tests where the real one may be absent."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallSynset:
    """One noun synset."""

    lemmas: tuple[str, ...]
    definition: str
    above: tuple[str, ...] = ()
    """First lemmas of what it is a kind of, as `hat.1`, the meaning by number."""
    parts: tuple[str, ...] = ()


SYNSETS = (
    SmallSynset(lemmas=("entity",), definition="that which is"),
    SmallSynset(lemmas=("physical_entity",), definition="an entity that exists in space", above=("entity.1",)),
    SmallSynset(lemmas=("whole",), definition="all of something", above=("entity.1",)),
    SmallSynset(lemmas=("whole", "unit"), definition="one thing", above=("physical_entity.1",)),
    SmallSynset(lemmas=("person",), definition="a human being", above=("whole.2",)),
    SmallSynset(
        lemmas=("animal", "beast"), definition="a living thing that moves", above=("whole.2",), parts=("head.1",)
    ),
    SmallSynset(lemmas=("head",), definition="the upper part", above=("whole.2",)),
    SmallSynset(lemmas=("tail",), definition="the rear part", above=("whole.2",)),
    SmallSynset(lemmas=("stripe",), definition="a narrow band", above=("whole.2",)),
    SmallSynset(lemmas=("cat", "feline"), definition="an animal with whiskers", above=("animal.1",), parts=("tail.1",)),
    SmallSynset(lemmas=("tiger",), definition="a fierce person", above=("person.1",)),
    SmallSynset(
        lemmas=("tiger", "big_cat"),
        definition='a large feline having a tawny coat with black stripes; endangered; "a tiger with a hat"',
        above=("cat.1",),
        parts=("stripe.1",),
    ),
    SmallSynset(lemmas=("idea",), definition="a thought", above=("entity.1",)),
)


def write_small_wordnet(folder: Path) -> Path:
    """Write `SYNSETS`; returns the folder."""
    offsets = {each: 100 * (place + 1) for place, each in enumerate(SYNSETS)}
    senses: dict[str, list[int]] = {}
    for each, offset in offsets.items():
        for lemma in each.lemmas:
            senses.setdefault(lemma, []).append(offset)

    def pointer(kind: str, meaning: str) -> str:
        lemma, _, number = meaning.partition(".")
        return f"{kind} {senses[lemma][int(number) - 1]:08d} n 0000"

    folder.mkdir(parents=True)
    with (folder / "data.noun").open("w") as data:
        for each, offset in offsets.items():
            words = " ".join(f"{lemma} 0" for lemma in each.lemmas)
            pointers = [*(pointer("@", name) for name in each.above), *(pointer("%p", name) for name in each.parts)]
            data.write(
                f"{offset:08d} 05 n {len(each.lemmas):02x} {words} {len(pointers):03d} {' '.join(pointers)} | "
                f"{each.definition}  \n"
            )
    with (folder / "index.noun").open("w") as index:
        for lemma, places in sorted(senses.items()):
            listed = " ".join(f"{place:08d}" for place in places)
            index.write(f"{lemma} n {len(places)} 1 @ {len(places)} 0 {listed}  \n")
    (folder / "noun.exc").write_text("")
    return folder

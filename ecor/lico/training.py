"""LICO (arXiv:2310.09821): train an image classifier with losses that align it with language.

Learnable prompts are read by a frozen text tower, and an MLP brings their tokens to the size of the classifier's last
feature maps; two losses align both. The language branch is dropped after training.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ecor.clip.backbone import Backbone
from ecor.clip.towers.causal_text import CausalText, token_features
from ecor.config.checks import require
from ecor.config.systems import LicoConfig
from ecor.lico.classifier import Classifier, build_encoder, encoder_preprocess
from ecor.lico.sinkhorn import transport_cost
from ecor.training.distributed import gather_features, gather_ids, mean_over_ranks
from ecor.training.losses.manifold_matching import manifold_matching
from ecor.training.negative_sampling import distinct_ids, positions_in


class LanguageBranch(nn.Module):
    """Encode category names to one row per prompt token, as long as a flattened feature map (G of the paper)."""

    def __init__(self, backbone: Backbone, *, categories: Sequence[str], length: int, config: LicoConfig) -> None:
        """Draw the learned context and layers.

        Args:
            backbone: whose text tower reads the prompts.
            categories: names.
            length: of a flattened feature map.
            config: context, its place, and dropout.

        Raises:
            ValueError: when the text tower is no plain causal one, or context and names are longer than it reads.
        """
        super().__init__()
        tower = backbone.causal_text
        require(
            tower is not None,
            f"LICO reads prompts with a plain causal text tower, which that of {backbone.config.name!r} is not: choose "
            f"another backbone",
        )
        assert tower is not None
        words = [ids[1:-1] for ids in backbone.text_tokenizer.tokenize(list(categories))]
        longest = max(map(len, words))
        require(
            config.num_context + longest + 2 <= backbone.context_length,
            f"{config.num_context} context tokens and a name of {longest} do not fit into {backbone.context_length}: "
            f"set lico.num_context lower",
        )
        self.context = nn.Parameter(0.02 * torch.randn(config.num_context, backbone.text_width))
        width = backbone.embed_dim
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, length)
        self._frozen: tuple[CausalText, list[list[int]], LicoConfig] = (tower, words, config)

    def forward(self, ids: Int[Tensor, " U"], *, generator: torch.Generator | None = None) -> Float[Tensor, "U M F"]:
        """Encode some categories: a row for each context token, then one for the end token, which has read the name.

        In a causal tower, context before the name cannot know it: those rows are alike for all categories.

        Args:
            ids: of categories.
            generator: draws the order of the context and what dropout drops; None: neither.
        """
        tower, words, config = self._frozen
        context: Tensor = self.context
        if generator is not None and config.shuffle:
            order = torch.randperm(len(context), generator=generator)
            context = context[order.to(context.device)]
        features, rows = [], []
        longest = max(len(words[each]) for each in ids.tolist())
        for each in ids.tolist():
            sentence, places = self._sentence(words[each], context, longest=longest)
            features.append(sentence)
            rows.append(places)
        tokens = token_features(tower, torch.stack(features))
        chosen = torch.tensor(rows, device=tokens.device)
        read = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
        hidden = self.inner(read)
        if generator is not None and config.dropout:
            kept = torch.rand(hidden.shape, generator=generator) >= config.dropout
            hidden = hidden * kept.to(hidden) / (1 - config.dropout)
        return self.outer(hidden.relu())

    def _sentence(self, words: list[int], context: Tensor, *, longest: int) -> tuple[Tensor, list[int]]:
        """Embeddings of a prompt, padded with end tokens, and the places that are read."""
        tower, _, config = self._frozen
        ends = [tower.end_token] * (1 + longest - len(words))
        device = context.device
        start, name, end = (
            tower.token_embedding(torch.tensor(ids, dtype=torch.long, device=device))
            for ids in ([tower.start_token], words, ends)
        )
        first = 1 if config.class_position == "end" else 1 + len(words)
        parts = [start, context, name, end] if config.class_position == "end" else [start, name, context, end]
        return torch.cat(parts), [*range(first, first + len(context)), 1 + len(words) + len(context)]


class LicoModule(nn.Module):
    """Compute LICO's loss terms for labelled images; the language branch exists only if a loss needs it."""

    def __init__(self, backbone: Backbone, *, categories: Sequence[str], config: LicoConfig, seed: int = 0) -> None:
        """Draw all new weights from the seed; the global generators stay as they are.

        Args:
            backbone: of the encoder and the prompts.
            categories: names.
            config: encoder and loss.
            seed: of the weights.

        Raises:
            ValueError: when the encoder is unknown, or the text tower is no plain causal one.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = Classifier(
                build_encoder(config, backbone), categories=categories, preprocess=encoder_preprocess(config, backbone)
            )
            self.language: LanguageBranch | None = None
            if config.alpha or config.beta:
                length = math.prod(self.classifier.grid)
                self.language = LanguageBranch(backbone, categories=categories, length=length, config=config)
        self.log_temperature: nn.Parameter | None = None
        if config.alpha and config.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.config = config

    def forward(
        self,
        pictures: UInt8[Tensor, "B 3 H W"],
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute CE, α L_MM and β L_OT (the loss is their sum), each a mean over the images of all ranks.

        Args:
            pictures: 8-bit pixels.
            categories: ids, −1 where unknown.
            rationales: not used.
            generator: in the same state on all ranks, because each encodes the prompts of the whole batch.
        """
        maps = self.classifier.maps(self.classifier.normalise(pictures))
        known = categories >= 0
        nll = cross_entropy(self.classifier.logits(maps), categories, ignore_index=-1, reduction="none")
        terms = {"classification": mean_over_ranks(nll, known)}
        if self.language is None:
            return terms
        rows = maps.flatten(2)
        everyone = gather_ids(categories)
        present = distinct_ids(everyone)
        language = self.language(present, generator=generator if self.training else None)
        if self.config.alpha:
            terms["manifold"] = self.config.alpha * manifold_matching(
                gather_features(rows.flatten(1)),
                language.flatten(1)[positions_in(present, everyone).clamp(min=0)],
                temperature=self.temperature,
                known=everyone >= 0,
            )
        if self.config.beta:
            cost = transport_cost(
                rows,
                language[positions_in(present, categories).clamp(min=0)],
                epsilon=self.config.epsilon,
                max_iterations=self.config.max_iterations,
                tolerance=self.config.tolerance,
            )
            terms["transport"] = self.config.beta * mean_over_ranks(cost.masked_fill(~known, 0.0), known)
        return terms

    @property
    def temperature(self) -> Tensor | float:
        """Of both manifolds. Learned, it may grow until all neighbours are alike: watch it."""
        return self.config.temperature if self.log_temperature is None else self.log_temperature.exp()

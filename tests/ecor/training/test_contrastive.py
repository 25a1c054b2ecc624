"""Pretraining's loss is what a loop over pairs says, its text route is open_clip's, and ranks change nothing.

Also tests `caption_batches`.

Covers: `ecor.training.caption_batches`.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ecor.clip.towers.text_forward import encode_captions
from ecor.demo.tiny_clip import create_clip
from ecor.training.caption_batches import BatchPart, CaptionedImages, PretrainingBatch, TokenTable, tokenize_batch
from ecor.training.contrastive import (
    Pretrainer,
    TokenDropout,
    attribute_loss,
    full_weights,
    pretraining_optimizer,
    pretraining_step,
)

CAPTIONS = ("a zebra", "a dog", "a cat with wings", "There is a long trunk.", "a photo of a zebra, with a long trunk")


def tokenizer(texts: list[str]) -> Tensor:
    return open_clip.get_tokenizer("ViT-B-32")(texts)


def images(num: int = 6, *, side: int = 64) -> CaptionedImages:
    """Random pictures and captions, some true of several pictures, one of none; the third picture is unreadable."""
    generator = torch.Generator().manual_seed(3)
    own = torch.zeros(num, len(CAPTIONS), dtype=torch.bool)
    own[torch.arange(num), torch.arange(num) % (len(CAPTIONS) - 1)] = True
    true = own | (torch.rand(own.shape, generator=generator) < 0.2)
    true[:, -1] = False
    readable = torch.ones(num, dtype=torch.bool)
    readable[2] = False
    return CaptionedImages(
        images=torch.randn(num, 3, side, side, generator=generator),
        readable=readable,
        captions=CAPTIONS,
        own=own,
        true=true,
        attributes=torch.rand(num, 3, generator=generator) < 0.5,
    )


def part_of(whole: CaptionedImages, part: BatchPart) -> CaptionedImages:
    mine = part.of(len(whole.images))
    return replace(whole, images=whole.images[mine], readable=whole.readable[mine])


def test_attribute_loss_equals_the_loop() -> None:
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.1]])
    present = torch.tensor([[True, False], [False, False]])
    terms = [
        math.log1p(math.exp(-x if p else x))
        for x, p in zip(logits.ravel().tolist(), present.ravel().tolist(), strict=True)
    ]
    assert float(attribute_loss(logits, present=present)) == pytest.approx(sum(terms) / 2)


def test_cut_captions_give_open_clip_s_features() -> None:
    torch.manual_seed(0)
    clip = create_clip(weights=None)
    captions = ["a zebra", "This is a photo of a zebra because there is a long trunk."]
    table = TokenTable(tokenizer, texts=captions)
    rows, ends = table(captions)
    assert rows.shape[1] < 77
    with torch.no_grad():
        expected = clip.encode_text(tokenizer(captions))
        found = encode_captions(clip, table.rows[rows], ends=ends)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_small_token_table_holds_what_occurs_and_nothing_else() -> None:
    table = TokenTable(tokenizer, texts=CAPTIONS)
    assert table.rows.tolist() == sorted(set(tokenizer(list(CAPTIONS)).flatten().tolist()))
    assert table.rows[0] == 0
    with pytest.raises(ValueError, match="'a walrus' holds an unlisted token"):
        table(["a dog", "a walrus"])


def test_a_model_with_its_small_table_is_the_model_with_the_full_one() -> None:
    """Up to fp16: what is written, by open_clip's own text route, is what was trained."""
    torch.manual_seed(0)
    table = TokenTable(tokenizer, texts=CAPTIONS)
    clip = create_clip(weights=None)
    clip.token_embedding = nn.Embedding(len(table.rows), clip.token_embedding.embedding_dim)
    state = full_weights(clip, rows=table.rows, num_rows=49408)
    whole = create_clip(weights=None)
    whole.load_state_dict(state)
    tokens, ends = table(CAPTIONS)
    with torch.no_grad():
        trained = functional.normalize(encode_captions(clip, tokens, ends=ends), dim=-1)
        written = functional.normalize(whole.encode_text(tokenizer(list(CAPTIONS))), dim=-1)
    torch.testing.assert_close(trained, written, rtol=0, atol=3e-3)
    unused = torch.ones(49408, dtype=torch.bool)
    unused[table.rows] = False
    assert len(state["token_embedding.weight"][unused].unique(dim=0)) == 1


@pytest.mark.parametrize(("count", "num"), [(6, 2), (5, 2), (5, 4), (1, 3), (8, 1)])
def test_parts_are_the_whole(count: int, num: int) -> None:
    parts = [list(range(count))[BatchPart(index=index, num=num).of(count)] for index in range(num)]
    assert [place for part in parts for place in part] == list(range(count))
    table = TokenTable(tokenizer, texts=CAPTIONS)
    whole = images(count if count > 2 else 3)
    batches = [tokenize_batch(whole, table=table, part=BatchPart(index=index, num=num)) for index in range(num)]
    assert len({len(batch.ends) for batch in batches}) == 1, "ranks gather equal parts"
    words = [row[: end + 1].tolist() for each in batches for row, end in zip(each.tokens, each.ends, strict=True)]
    tokens, ends = table(CAPTIONS)
    assert words[: len(CAPTIONS)] == [row[: end + 1].tolist() for row, end in zip(tokens, ends, strict=True)]


def test_dropped_tokens_are_the_same_on_any_number_of_ranks() -> None:
    tokens = torch.randn(6, 17, 4, generator=torch.Generator().manual_seed(0))

    def left(part: BatchPart, mine: Tensor) -> Tensor:
        dropout = TokenDropout(torch.Generator().manual_seed(1), part=part)
        assert dropout(mine) is mine
        dropout.share = 0.5
        assert dropout.eval()(mine) is mine
        return dropout.train()(mine)

    whole = left(BatchPart(), tokens)
    assert whole.shape == (6, 9, 4)
    assert torch.equal(whole[:, 0], tokens[:, 0]), "the class token stays"
    assert (whole[:, 1:, None] == tokens[:, None, 1:]).all(-1).any(-1).all()
    for index in range(2):
        part = BatchPart(index=index, num=2)
        assert torch.equal(left(part, tokens[part.of(6)]), whole[part.of(6)])


@pytest.mark.usefixtures("one_thread")
def test_an_unreadable_picture_teaches_nothing() -> None:
    torch.manual_seed(0)
    table = TokenTable(tokenizer, texts=CAPTIONS)
    pretrainer = Pretrainer(create_clip(weights=None), embed_dim=128, num_attributes=3)
    pretrainer.clip.token_embedding = nn.Embedding(len(table.rows), 96)
    whole = images()
    kept = whole.readable
    without = replace(
        whole,
        images=whole.images[kept],
        readable=whole.readable[kept],
        own=whole.own[kept],
        true=whole.true[kept],
        attributes=whole.attributes[kept],
    )
    with torch.no_grad():
        found, expected = (pretrainer(tokenize_batch(each, table=table, part=BatchPart())) for each in (whole, without))
    torch.testing.assert_close(found, expected)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny steps on several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_steps_lower_the_loss_and_repeat_exactly() -> None:
    def losses() -> list[float]:
        torch.manual_seed(0)
        clip = create_clip(weights=None).train()
        clip.token_embedding.requires_grad_(False)
        pretrainer = Pretrainer(clip, embed_dim=128, num_attributes=3)
        tokens = tokenizer(["a cat", "a dog", "a cat with wings"])
        own = torch.tensor([[True, False, False], [False, True, False]])
        batch = PretrainingBatch(
            images=torch.randn(2, 3, 64, 64),
            readable=torch.ones(2, dtype=torch.bool),
            tokens=tokens[:, :8],
            ends=tokens.argmax(dim=-1),
            own=own,
            true=own,
            attributes=torch.tensor([[True, False, True], [False, True, False]]),
        )
        optimizer = pretraining_optimizer(pretrainer, learning_rate=1e-3, weight_decay=0.05)
        steps = [
            pretraining_step(pretrainer, optimizer, batch, learning_rate=1e-3, attribute_weight=0.1) for _ in range(6)
        ]
        return [float(terms["contrastive"]) for terms in steps]

    first, second = losses(), losses()
    assert first == second
    assert first[-1] < 0.7 * first[0]


def gradients(part: BatchPart) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss terms and gradients of one part of a batch."""
    torch.manual_seed(0)
    table = TokenTable(tokenizer, texts=CAPTIONS)
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "patch_size": 16, "width": 16, "head_width": 8, "layers": 1},
        text_cfg={"context_length": 77, "width": 16, "heads": 2, "layers": 1, "vocab_size": len(table.rows)},
    )
    pretrainer = Pretrainer(clip, embed_dim=16, num_attributes=3).train()
    dropout = clip.visual.patch_dropout = TokenDropout(torch.Generator().manual_seed(1), part=part)
    dropout.share = 0.5
    module = DistributedDataParallel(pretrainer) if part.num > 1 else pretrainer
    terms = module(tokenize_batch(part_of(images(side=32), part), table=table, part=part))
    (terms["contrastive"] + terms["attributes"]).backward()
    found = {name: parameter.grad for name, parameter in pretrainer.named_parameters()}
    return {name: term.detach() for name, term in terms.items()}, found


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    torch.save(gradients(BatchPart(index=rank, num=2)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns_with_the_whole_batch(tmp_path: Path) -> None:
    """Five captions on two ranks, contradictions, attributes, an unreadable picture, and dropped tokens."""
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    terms, expected = gradients(BatchPart())
    assert all((gradient != 0).any() for gradient in expected.values())
    for rank in range(2):
        found_terms, found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found_terms, terms, rtol=0, atol=1e-5)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

"""A model name or path in, frozen CLIP towers out: pictures and texts to features (the one import of open_clip)."""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from jaxtyping import Float, Int, UInt8
from open_clip.factory import load_checkpoint
from open_clip.model import set_model_preprocess_cfg
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ecor.clip.causal_text import CausalText
from ecor.config import BackboneConfig, Preprocess, require
from ecor.storage import filesystem

_TEXTS_PER_PASS = 256
_TEXTS_KEPT = 2**16
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TRANSIENT_KEYS = ("timm_model_pretrained", "hf_model_pretrained")  # how weights arrive, not what the model is


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What loading yields before it is frozen into a Backbone."""

    model: Any
    """An open_clip CLIP, CustomTextCLIP or CoCa."""
    model_cfg: dict[str, Any]
    """open_clip's architecture settings."""
    tokenizer: Any


class Backbone(nn.Module):
    """Frozen CLIP towers, always in evaluation mode; made by `load_backbone`.

    A SigLIP-like bias on the logits is the same for all texts, so it has no part in any softmax and is left out.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, parts: _Parts, *, config: BackboneConfig, device: str | torch.device) -> None:
        super().__init__()
        self.config = config
        self.model: Any = parts.model.to(device).requires_grad_(False).eval()
        self.model_cfg = parts.model_cfg
        self.tokenizer = parts.tokenizer
        self.preprocess = _preprocess_of(self.model)
        self.embed_dim = int(parts.model_cfg["embed_dim"])
        self.logit_scale = float(self.model.logit_scale.detach().float().exp())
        self.register_buffer("_mean", _channels(self.preprocess.mean, device), persistent=False)
        self.register_buffer("_std", _channels(self.preprocess.std, device), persistent=False)
        tower = _prompted_vit if self.vit else _plain_tower
        self._image_tower: Callable[..., Tensor] = torch.compile(tower) if config.compile else tower

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: dropout and batch statistics of a frozen tower must not change."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @property
    def text(self) -> Any:
        """The module that holds the text tower (CLIP itself where its parts are not in a module of their own)."""
        return getattr(self.model, "text", self.model)

    @property
    def vit(self) -> Any | None:
        """The image tower, if it is an open_clip ViT (the kind that takes visual prompt tokens)."""
        return self.model.visual if isinstance(self.model.visual, VisionTransformer) else None

    @property
    def resnet(self) -> Any | None:
        """The image tower, if it is an open_clip ModifiedResNet (the kind with an attention pool)."""
        return self.model.visual if isinstance(self.model.visual, ModifiedResNet) else None

    @property
    def visual_width(self) -> int | None:
        return self.vit.transformer.width if self.vit else None

    @property
    def num_visual_blocks(self) -> int | None:
        return len(self.vit.transformer.resblocks) if self.vit else None

    @property
    def token_embedding(self) -> nn.Embedding:
        if hasattr(self.text, "token_embedding"):
            return self.text.token_embedding
        return self.text.transformer.get_input_embeddings()

    @property
    def text_width(self) -> int:
        return self.token_embedding.embedding_dim

    @property
    def context_length(self) -> int:
        """Text tokens per sentence at most, start and end token included."""
        return int(self.tokenizer.context_length)

    @cached_property
    def causal_text(self) -> CausalText | None:
        """The text tower's parts where it is plain: causal, read at the end token, words from CLIP's own tokenizer."""
        text, tokenizer = self.text, self.tokenizer
        plain_tokens = isinstance(tokenizer, SimpleTokenizer) and tokenizer.reduction_fn is None
        plain_tower = isinstance(text, open_clip.CLIP) or (isinstance(text, TextTransformer) and text.cls_emb is None)
        if not (plain_tokens and plain_tower and _reads_end_token(text, end_token=tokenizer.eot_token_id)):
            return None
        blocks = tuple(text.transformer.resblocks)
        if text.attn_mask is None or not all(type(block) is ResidualAttentionBlock for block in blocks):
            return None
        return CausalText(
            token_embedding=text.token_embedding,
            positional_embedding=text.positional_embedding,
            blocks=blocks,
            ln_final=text.ln_final,
            project=_projection(text.text_projection),
            start_token=tokenizer.sot_token_id,
            end_token=tokenizer.eot_token_id,
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of architecture, preprocessing and weights; paths and names have no part in it."""
        hasher = hashlib.sha256(json.dumps(self.architecture, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return hasher.hexdigest()

    @property
    def architecture(self) -> dict[str, Any]:
        """What rebuilds the model without its weights, in the form of open_clip's own `open_clip_config.json`."""
        preprocess = dict(self.model.visual.preprocess_cfg)
        return json.loads(json.dumps({"model_cfg": self.model_cfg, "preprocess_cfg": preprocess}))

    def untrained(self) -> Any:
        """Another CLIP of this architecture, to be trained: on the CPU, its weights drawn by torch's own generator."""
        model = _constructed(self.model_cfg)
        set_model_preprocess_cfg(model, dict(self.model.visual.preprocess_cfg))
        return model

    def save(self, folder: str | Path, *, stem: str = "backbone") -> tuple[Path, Path]:
        """Write `<stem>.json` and `<stem>.safetensors`: as name and pretrained they load again, digest and all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        json_path, weights_path = folder / f"{stem}.json", folder / f"{stem}.safetensors"
        json_path.write_text(json.dumps(self.architecture, indent=2, sort_keys=True) + "\n")
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, weights_path)
        return json_path, weights_path

    @property
    def precision(self) -> str:
        """What `auto` comes to on this device."""
        if self.config.precision != "auto":
            return self.config.precision
        return "bf16" if self.device.type == "cuda" else "fp32"

    def autocast(self) -> AbstractContextManager[None]:
        """Lower precision for the frozen towers, as configured; softmaxes and learned tokens stay outside, in fp32."""
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision], enabled=self.precision != "fp32")

    def normalise(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """8-bit pixels to the values the tower was trained on."""
        return (images.to(self.device).float() / 255).sub_(self._mean).div_(self._std)

    def encode_image(
        self,
        images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"],
        *,
        tokens: Float[Tensor, "depth M width"] | None = None,
        fp32: bool = False,
    ) -> Float[Tensor, "B D"]:
        """Normalised fp32 features; 8-bit images are normalised here, others are taken as normalised.

        `tokens` are visual prompts (VPT, arXiv:2203.12119): `tokens[0]` stands between the class token and the patches
        from the first block on; each further `tokens[i]` replaces them at block i. Our choices: they join after the
        tower's first layer norm, as a block's input, and leave before pooling, so that no pool counts them as patches.
        `fp32` leaves the configured autocast off. ValueError if the image tower is no open_clip ViT or has fewer blocks
        than `tokens`.
        """
        self.check_tokens(tokens)
        pixels = images.to(self.device) if images.is_floating_point() else self.normalise(images)
        with nullcontext() if fp32 else self.autocast():
            features = self._image_tower(self.model, pixels, tokens)
        return nn.functional.normalize(features.float(), dim=-1)

    def check_tokens(self, tokens: Float[Tensor, "depth M W"] | None) -> None:
        """ValueError unless the image tower takes these visual prompt tokens."""
        if tokens is None:
            return
        if self.vit is None:
            raise ValueError(
                f"visual tokens need an open_clip ViT, but the image tower of {self.config.name!r} is a "
                f"{type(self.model.visual).__name__}: set visual_tokens to 0"
            )
        depth, _, width = tokens.shape
        assert self.num_visual_blocks is not None
        require(depth <= self.num_visual_blocks, f"visual depth {depth} is more than {self.num_visual_blocks} blocks")
        require(width == self.visual_width, f"visual tokens are {width} wide, the tower {self.visual_width}")

    def encode_text(
        self, texts: Sequence[str], *, context: Float[Tensor, "M W"] | None = None, fp32: bool = False
    ) -> Float[Tensor, "N D"]:
        """Normalised fp32 features by open_clip's own forward, padded: the reference, and the way for any tower.

        `context` are learned embeddings between the start token and the words (CoOp, arXiv:2109.01134). Sentences
        longer than what is left of the context length are cut, their end token kept. `fp32` leaves the configured
        autocast off.
        """
        require(len(texts) > 0, "no text to encode")
        passes = [texts[i : i + _TEXTS_PER_PASS] for i in range(0, len(texts), _TEXTS_PER_PASS)]
        return torch.cat([self._encode_padded(list(part), context=context, fp32=fp32) for part in passes])

    def _encode_padded(self, texts: list[str], *, context: Tensor | None, fp32: bool) -> Tensor:
        ids = self.padded_ids(texts, num_learned=0 if context is None else len(context))
        with nullcontext() if fp32 else self.autocast():
            if context is None or not len(context):
                features = self.model.encode_text(ids)
            else:
                with _embeddings_replaced(self.token_embedding, context, start=self.num_start_tokens):
                    features = self.model.encode_text(ids)
        return nn.functional.normalize(features.float(), dim=-1)

    def padded_ids(self, texts: Sequence[str], *, num_learned: int = 0) -> Int[Tensor, "N L"]:
        """Token ids of each text, padded or cut, with room kept after the start token for learned embeddings.

        The first token holds that room: it is neither padding nor the end, so that masks and pools are right.
        """
        room = self.context_length - num_learned
        require(
            room >= 3, f"{num_learned} context tokens leave no room for words: the tower takes {self.context_length}"
        )
        ids = self.tokenizer(list(texts), context_length=room).to(self.device)
        start = self.num_start_tokens
        return torch.cat([ids[:, :start], ids[:, :1].expand(-1, num_learned), ids[:, start:]], dim=1)

    @cached_property
    def num_start_tokens(self) -> int:
        """Tokens that the tokenizer puts before the words."""
        first, second = self.tokenizer(["a", "b"])[:, 0].tolist()
        return int(first == second)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with start and end token, neither padded nor cut.

        ValueError for tokenizers other than CLIP's own, which no unpadded route needs.
        """
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, SimpleTokenizer):
            raise ValueError(
                f"{self.config.name!r} has its own tokenizer ({type(tokenizer).__name__}): use encode_text"
            )
        return [[tokenizer.sot_token_id, *self._words(text), tokenizer.eot_token_id] for text in texts]

    @cached_property
    def _words(self) -> Callable[[str], list[int]]:
        """CLIP's own tokenizer, which remembers: training tokenizes the same texts in each step."""
        return lru_cache(maxsize=_TEXTS_KEPT)(self.tokenizer.encode)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before it is cut, start and end token (or whatever the tokenizer adds) included."""
        if isinstance(self.tokenizer, SimpleTokenizer):
            return [len(ids) for ids in self.tokenize(texts)]
        return [len(self.tokenizer.tokenizer(text).input_ids) for text in texts]

    def word_embeddings(self, words: str) -> Float[Tensor, "L W"]:
        """The token embeddings of some words, without start and end token (fp32, detached)."""
        start = self.num_start_tokens
        if isinstance(self.tokenizer, SimpleTokenizer):
            ids = self.tokenizer.encode(words)
        else:
            ids = self.tokenizer.tokenizer(words, add_special_tokens=False).input_ids
        require(len(ids) > 0, f"{words!r} holds no word to start from (start tokens: {start})")
        return self.token_embedding(torch.tensor(ids, device=self.device)).detach().float()


def load_backbone(config: BackboneConfig, *, device: str | torch.device = "cpu") -> Backbone:
    """Open the CLIP that `config` names, frozen, on `device`.

    Weights come from a file (safetensors, or a checkpoint read without unpickling code; on a disk or in a store), an
    open_clip tag, a hub id, or this package (`embedded`); `pretrained="random"` gives untrained weights, the same each
    time, for tests and timing. ValueError if the name or tag is unknown, a file is missing, or weights cannot be
    fetched.
    """
    found = _files_of(config)
    parts = _from_files(*found) if found else _from_open_clip(config)
    return Backbone(parts, config=config, device=device)


def _files_of(config: BackboneConfig) -> tuple[str, str | None] | None:
    """Addresses of architecture JSON and weights (None: random), where both are files; else None."""
    if config.pretrained == "embedded":
        folder = Path(str(files("ecor") / "demo" / "weights"))
        known = sorted(path.stem for path in folder.glob("*.json"))
        require(config.name in known, f"no embedded model {config.name!r}; embedded are: {', '.join(known) or 'none'}")
        return str(folder / f"{config.name}.json"), str(folder / f"{config.name}.safetensors")
    if not config.name.endswith(".json"):
        return None
    require(filesystem.is_file(config.name), f"no model config at {config.name}")
    if config.pretrained == "random":
        return config.name, None
    weights = config.pretrained
    if weights is None:
        raise ValueError(f"pretrained must name the weights file that goes with {config.name}")
    require(filesystem.is_file(weights), f"no weights file at {weights}")
    return config.name, weights


def _from_files(architecture: str, weights: str | None) -> _Parts:
    settings = json.loads(filesystem.read(architecture))
    model_cfg = settings.get("model_cfg", settings)
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(model_cfg)
    require(not missing, f"{architecture} is no open_clip model config: it lacks {', '.join(sorted(missing))}")
    model = _built(model_cfg)
    defaults = open_clip.transform.PreprocessCfg(size=model.visual.image_size)
    preprocess = open_clip.transform.merge_preprocess_dict(defaults, settings.get("preprocess_cfg", {}))
    set_model_preprocess_cfg(model, preprocess)
    if weights is not None:
        _load_weights(model, weights)
    return _Parts(model=model, model_cfg=_lasting(model_cfg), tokenizer=_tokenizer_of(model_cfg))


def _built(model_cfg: dict[str, Any]) -> Any:
    """The architecture with random weights that are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _constructed(model_cfg)


def _constructed(model_cfg: dict[str, Any]) -> Any:
    settings = json.loads(json.dumps(model_cfg))
    is_hf = "hf_model_name" in settings["text_cfg"]
    custom_text = settings.pop("custom_text", False) or is_hf
    if is_hf:
        settings["text_cfg"]["hf_model_pretrained"] = False
    model_class = open_clip.CLIP
    if custom_text:
        model_class = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    return model_class(**settings)


def _load_weights(model: nn.Module, weights: str) -> None:
    with filesystem.local_file(weights) as path:
        try:
            load_checkpoint(model, str(path), strict=True, weights_only=True)
        except (RuntimeError, OSError, KeyError, SafetensorError, UnpicklingError) as error:
            raise ValueError(f"{weights} does not fit the architecture: {error}") from error


def _from_open_clip(config: BackboneConfig) -> _Parts:
    is_hub = config.name.startswith(("hf-hub:", "local-dir:"))
    if not is_hub:
        _check_known(config)
    if config.pretrained == "random" and not is_hub:
        model_cfg = open_clip.get_model_config(config.name)
        model = _built(model_cfg)
        set_model_preprocess_cfg(model, vars(open_clip.transform.PreprocessCfg(size=model.visual.image_size)))
        return _Parts(model=model, model_cfg=_lasting(model_cfg), tokenizer=open_clip.get_tokenizer(config.name))
    try:
        with _on_this_machine(None if is_hub else config.pretrained) as pretrained:
            model = open_clip.create_model(
                config.name, pretrained=pretrained, weights_only=True, require_pretrained=True
            )
        model_cfg = open_clip.factory.get_model_config(config.name)
        tokenizer = open_clip.get_tokenizer(config.name)
    except Exception as error:  # hubs fail in many types, which all mean: these weights cannot be had here
        raise ValueError(
            f"could not open {config.name!r} with pretrained {config.pretrained!r}: {error}. Without a network, put "
            f"the weights on this machine and set pretrained to the path of the file"
        ) from error
    return _Parts(model=model, model_cfg=_lasting(model_cfg), tokenizer=tokenizer)


def _on_this_machine(pretrained: str | None) -> AbstractContextManager[str | Path | None]:
    """Weights in a store as a file that open_clip reads; tags and paths as they are."""
    return filesystem.local_file(pretrained) if pretrained and "://" in pretrained else nullcontext(pretrained)


def _check_known(config: BackboneConfig) -> None:
    names = open_clip.list_models()
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=3)
        raise ValueError(
            f"unknown model {config.name!r}{': nearest are ' + ', '.join(near) if near else ''}; give an open_clip "
            f"name, a hub id (hf-hub:org/name) or the path of a model config (.json)"
        )
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    is_file = config.pretrained is not None and filesystem.is_file(config.pretrained)
    if config.pretrained not in (*tags, "random") and not is_file:
        raise ValueError(
            f"pretrained {config.pretrained!r} is neither a tag of {config.name} nor a file; tags: "
            f"{', '.join(tags) or 'none'}"
        )


def _lasting(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that say how weights arrive, so that every way gives the same digest."""
    settings: dict[str, Any] = json.loads(json.dumps(model_cfg))
    for tower in ("vision_cfg", "text_cfg"):
        settings[tower] = {key: value for key, value in settings[tower].items() if key not in _TRANSIENT_KEYS}
    return settings


def _tokenizer_of(model_cfg: dict[str, Any]) -> Any:
    text = model_cfg["text_cfg"]
    options = text.get("tokenizer_kwargs") or {}
    context_length = text.get("context_length", 77)
    if name := text.get("hf_tokenizer_name"):
        return HFTokenizer(name, context_length=context_length, tokenizer_mode=text.get("tokenizer_mode"), **options)
    return SimpleTokenizer(context_length=context_length, **options)


def _preprocess_of(model: Any) -> Preprocess:
    facts = model.visual.preprocess_cfg
    size = facts["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(
        image_size=(int(height), int(width)),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        interpolation=facts["interpolation"],
        resize_mode=facts["resize_mode"],
        fill_color=facts["fill_color"],
    )


def _channels(values: tuple[float, ...], device: str | torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _reads_end_token(text: Any, *, end_token: int) -> bool:
    pool = text.text_pool_type if isinstance(text, open_clip.CLIP) else text.pool_type
    eos = text.text_eos_id if isinstance(text, open_clip.CLIP) else text.eos_id
    return pool == "argmax" or (pool == "eos" and eos == end_token)


def _projection(projection: Any) -> Callable[[Tensor], Tensor]:
    if projection is None:
        return lambda x_NW: x_NW
    if isinstance(projection, nn.Linear):
        return projection
    return lambda x_NW: x_NW @ projection


@contextmanager
def _embeddings_replaced(embedding: nn.Module, context: Tensor, *, start: int) -> Iterator[None]:
    """While open, `context` stands where `embedding` put the tokens from `start` on; the model itself is unchanged."""

    def insert(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        learned = context.to(output.dtype).expand(len(output), -1, -1)
        return torch.cat([output[:, :start], learned, output[:, start + len(context) :]], dim=1)

    hook = embedding.register_forward_hook(insert)
    try:
        yield
    finally:
        hook.remove()


def _plain_tower(model: Any, pixels: Tensor, tokens: Tensor | None) -> Tensor:
    assert tokens is None
    return model.encode_image(pixels)


def _prompted_vit(model: Any, pixels: Tensor, tokens: Tensor | None) -> Tensor:
    """open_clip's own forward; with tokens the same steps, with the tokens between class token and patches."""
    if tokens is None or tokens.shape[1] == 0:
        return model.encode_image(pixels)
    vit, num_tokens = model.visual, tokens.shape[1]
    x = vit._embeds(pixels)
    for index, block in enumerate(vit.transformer.resblocks):
        if index < len(tokens):
            patches = x[:, 1:] if index == 0 else x[:, 1 + num_tokens :]
            x = torch.cat([x[:, :1], tokens[index].to(x.dtype).expand(len(x), -1, -1), patches], dim=1)
        x = block(x)
    pooled, _ = vit._pool(torch.cat([x[:, :1], x[:, 1 + num_tokens :]], dim=1))
    return pooled if vit.proj is None else pooled @ vit.proj

"""What this project uses of open_clip: the only place that imports it.

open_clip imports transformers and timm for towers that few models have, and torchvision imports torch._dynamo for one
function. The three take longer to import than all the rest, so they wait until a model needs them.
"""

from ecor.clip.deferred_imports import defer_imports

with defer_imports("timm", "transformers", "torch._dynamo"):
    import open_clip
    from open_clip.factory import load_checkpoint
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer

__all__ = [
    "HFTokenizer",
    "ModifiedResNet",
    "ResidualAttentionBlock",
    "SimpleTokenizer",
    "TextTransformer",
    "VisionTransformer",
    "load_checkpoint",
    "open_clip",
    "set_model_preprocess_cfg",
]

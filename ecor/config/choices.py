"""Names that several settings choose from."""

from typing import Literal

SystemName = Literal["ecor", "eclip", "lico"]
Compat = Literal["reference"]
"""Follow a method's reference implementation where it differs from the formula of the paper."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
WorldName = Literal["demo", "other"]

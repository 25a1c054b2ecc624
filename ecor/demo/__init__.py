"""The embedded default: a drawn world with known truth, and a small CLIP pretrained on it; import the file you need."""

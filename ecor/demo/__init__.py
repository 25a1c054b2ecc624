"""Demo data: a drawn world with known truth, and a small CLIP pretrained on it; import the module you need."""

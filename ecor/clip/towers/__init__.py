"""Forward passes of open_clip's image and text towers, step by step: the only code that knows their insides."""

"""Forward passes of open_clip's image and text towers; the only code that depends on their internals."""

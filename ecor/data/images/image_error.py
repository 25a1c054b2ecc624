"""The error of an image that cannot be used."""


class ImageError(ValueError):
    """An unusable image: `reason` is a short code for counting, `detail` a sentence for users."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, self.detail)  # makes it picklable

"""Draw the picture of `docs/review.md`: the review page of some labels in headless Chromium, as a small PNG.

ecor demo
python docs/review_picture.py demo-run/labels docs/review.png
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.browser import open_tab
from tests.support.review_labels import running_review

WIDTH, HEIGHT, NUM_COLOURS = 1240, 800, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", help="folder of labels")
    parser.add_argument("output", help="PNG to write")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "profile").mkdir()
        shot = Path(scratch) / "shot.png"
        with (
            running_review(given.labels, decisions=f"{scratch}/decisions") as running,
            open_tab(Path(scratch) / "profile") as tab,
        ):
            tab.screen(width=WIDTH, height=HEIGHT)
            tab.visit(running.address)
            tab.wait_for("document.querySelector('.group-row')")
            tab.press("Enter", code=13, text="\r")
            for key in ("a", "v", "a"):
                tab.wait_for("document.querySelector('#rationales li')")
                tab.press(key, code=ord(key.upper()), text=key)
                time.sleep(1.0)
            tab.wait_for("!document.querySelector('.tile.pending')")
            tab.screenshot(shot)
        picture = Image.open(shot).convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE)
        picture.save(given.output, optimize=True)


if __name__ == "__main__":
    main()

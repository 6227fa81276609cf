"""The diagram as a picture, by kaleido (the extra `[png]`) and a Chrome or Chromium of this machine."""

import os
import shutil
from typing import TYPE_CHECKING

from parsim.errors import ParsimError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["find_browser", "png_bytes"]

_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "brave-browser",
)
_INSTEAD = "--html shows the same diagram without either"


def png_bytes(figure: "Figure", *, width: int = 1400, height: int | None = None, scale: float = 2.0) -> bytes:
    """A PNG of the figure, `width` by `height` (default: the figure's own) CSS pixels, `scale` device pixels each.

    Raises ParsimError when kaleido or a browser is missing, or the browser fails.
    """
    try:
        import kaleido
    except ImportError:
        raise ParsimError(f"a PNG needs kaleido: pip install 'parsim-train[png]'; {_INSTEAD}") from None
    options = {"format": "png", "width": width, "height": height or figure.layout.height, "scale": scale}
    # Without mathjax=False kaleido would load it from the network.
    browser = {"path": find_browser(), "mathjax": False}
    try:
        picture = kaleido.calc_fig_sync(figure, opts=options, kopts=browser)
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ParsimError(f"the browser made no PNG: {reason[:300]}; {_INSTEAD}") from None
    return bytes(picture)


def find_browser() -> str:
    """The path of a Chrome or Chromium: `BROWSER_PATH` if set, else the first one on the PATH; else ParsimError."""
    stated = os.environ.get("BROWSER_PATH")
    if stated:
        if not os.access(stated, os.X_OK) or os.path.isdir(stated):
            raise ParsimError(f"BROWSER_PATH={stated} is not a program; set it to a Chrome or Chromium; {_INSTEAD}")
        return stated
    for name in _BROWSERS:
        if path := shutil.which(name):
            return path
    raise ParsimError(f"a PNG needs Chrome or Chromium: install one, or set BROWSER_PATH to it; {_INSTEAD}")

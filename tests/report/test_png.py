"""The picture: made by a browser, and a clear line of error where there is none."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parsim.errors import ParsimError
from parsim.report import gantt, png_bytes
from parsim.timeline import Timeline

Play = Callable[..., Timeline]


def test_without_kaleido_the_error_says_what_to_install(played: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ParsimError, match=r"pip install 'parsim-train\[png\]'"):
        png_bytes(gantt(played("1f1b", 2, 2)))


@pytest.mark.parametrize("stated", [None, "/nowhere/chrome"])
def test_without_a_browser_the_error_says_where_to_name_one(
    played: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: str | None
) -> None:
    pytest.importorskip("kaleido", reason="the extra [png] is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    if stated:
        monkeypatch.setenv("BROWSER_PATH", stated)
    with pytest.raises(ParsimError, match="BROWSER_PATH") as caught:
        png_bytes(gantt(played("1f1b", 2, 2)))
    assert "\n" not in str(caught.value)


@pytest.mark.browser
def test_a_picture_has_the_size_asked_for(played: Play, browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido", reason="the extra [png] is not installed")
    monkeypatch.setenv("BROWSER_PATH", browser.program)
    picture = png_bytes(gantt(played("1f1b", 4, 8), title="1f1b", unit="units"), width=700, height=400, scale=1)
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (700, 400)

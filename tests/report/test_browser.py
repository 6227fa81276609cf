"""Pages as a browser sees them: drawn, without console errors, and quick at 64 ranks with 256 micro-batches."""

import re
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from parsim.plan import Kind
from parsim.report import page
from parsim.report.palette import colour
from parsim.timeline import Timeline

Play = Callable[..., Timeline]
pytestmark = pytest.mark.browser


def pixels(png: bytes) -> Counter[tuple[int, int, int]]:
    """How often each colour occurs in an 8-bit RGB or RGBA picture without interlacing."""
    width, height, depth, kind, _, _, interlace = struct.unpack(">IIBBBBB", png[16:29])
    assert (depth, interlace) == (8, 0)
    size = {2: 3, 6: 4}[kind]
    at, data = 8, b""
    while at < len(png):
        length = struct.unpack(">I", png[at : at + 4])[0]
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw, stride = zlib.decompress(data), width * size
    above, found = bytearray(stride), Counter[tuple[int, int, int]]()
    for y in range(height):
        filtering, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride if filtering else 0):
            left, up, corner = (line[x - size], above[x], above[x - size]) if x >= size else (0, above[x], 0)
            guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[filtering]
            line[x] = (line[x] + guess) & 255
        found.update(zip(line[::size], line[1::size], line[2::size], strict=True))
        above = line
    return found


def _paeth(left: int, up: int, corner: int) -> int:
    return min((left, up, corner), key=lambda value: abs(left + up - corner - value))


def rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def zoomed(html: str, start: float, end: float) -> str:
    script = f"<script>setTimeout(() => Plotly.relayout('diagram', {{'xaxis.range': [{start}, {end}]}}), 100)</script>"
    return html.replace("</body>", script + "</body>")


@pytest.mark.parametrize("name", ["1f1b", "dualpipe"])
def test_a_page_draws_a_bar_for_every_op(played: Play, browser: Any, name: str) -> None:
    timeline = played(name, 4, 8)
    dom = browser.dom(page(timeline, title=f"{name} diagram", unit="units"))
    assert len(re.findall(r'<g class="point">', dom)) == len(timeline.spans) + timeline.ranks
    assert f"<h1>{name} diagram</h1>" in dom
    numbers = re.findall(r'class="bartext[^>]*>(\d+)<', dom)
    assert len(numbers) == sum(span.op.mb is not None for span in timeline.spans)


def test_a_screenshot_shows_the_colours_of_the_kinds(played: Play, browser: Any) -> None:
    html = page(played("zb-h1", 4, 8, unit=0.01, memory=True), title="zb-h1")
    found = pixels(browser.screenshot(html, width=800, height=700))
    for kind in "FIW":
        assert found[rgb(colour(Kind(kind)))] > 2000, kind
    assert found[255, 255, 255] > 50_000


def test_strings_from_outside_never_run(played: Play, browser: Any) -> None:
    evil = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    base = played("1f1b", 2, 2)
    timeline = Timeline(2, base.spans, run={"model": evil}, evidence={evil: evil})
    dom = browser.dom(page(timeline, title=evil, facts=[(evil, evil, evil)], unit=evil))
    assert "<title>owned</title>" not in dom
    assert "<title>&lt;/script&gt;" in dom


def test_sixty_four_ranks_open_in_seconds_and_show_bars_when_zoomed(played: Play, browser: Any) -> None:
    timeline = played("1f1b", 64, 256, unit=0.01, memory=True)
    html = page(timeline, title="64 ranks")
    start = time.perf_counter()
    dom = browser.dom(html)
    assert time.perf_counter() - start < 60, "measured: about 5 s on two shared cores"
    assert len(re.findall(r'<g class="point">', dom)) == 64, "the idle rows; all else is paths"
    dom = browser.dom(zoomed(html, 1800, 2000))
    inside = [span for span in timeline.spans if span.end_s * 1e3 > 1800.01 and span.start_s * 1e3 < 1999.99]
    bars = len(re.findall(r'<g class="point">', dom)) - 64
    assert len(inside) <= bars <= len(inside) + 64, "bars that only touch the edge may be drawn too"
    assert len(re.findall(r'class="bartext[^>]*>\d+<', dom)) > 0.9 * len(inside)

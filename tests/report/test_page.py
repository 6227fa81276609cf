"""The page is one file: nothing is loaded from elsewhere, and no string from outside becomes markup or a script."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from parsim.comparison import compare
from parsim.report import Section, compare_page, page
from parsim.timeline import Timeline

Play = Callable[..., Timeline]
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


class Tags(HTMLParser):
    """Every tag with its attributes, and how many scripts there are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def evil_page(timeline: Timeline) -> str:
    timeline = Timeline(
        timeline.ranks, timeline.spans, run={"model": {"name": EVIL}}, evidence={EVIL: EVIL, "gpu": "datasheet"}
    )
    return page(
        timeline,
        title=EVIL,
        facts=[(EVIL, EVIL, EVIL)],
        unit=EVIL,
        sections=[Section(EVIL, (EVIL, "n"), [(EVIL, 1.5)], EVIL)],
    )


def test_a_page_loads_nothing_from_elsewhere(played: Play) -> None:
    html = page(played("1f1b", 4, 8), title="1f1b", facts=[("makespan", "33", "ideal 24")], unit="units")
    for tag, attributes in Tags(html).tags:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attributes), (tag, attributes)
        assert tag not in {"link", "iframe", "base", "object", "embed"}
    policy = next(a["content"] for tag, a in Tags(html).tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert "//" not in own.replace("<!DOCTYPE", "")
    assert html.count("Plotly.newPlot(") >= 1
    assert len(html) < 6e6, "plotly's library once, and little else"


def test_strings_from_outside_stay_strings(played: Play) -> None:
    timeline = played("1f1b", 2, 2)
    scripts = [
        sum(tag == "script" for tag, _ in Tags(html).tags) for html in (evil_page(timeline), page(timeline, title="x"))
    ]
    assert scripts[0] == scripts[1]
    html = evil_page(timeline)
    assert EVIL not in html
    assert html.count("&lt;/script&gt;&lt;script&gt;") >= 10
    other = compare_page(timeline, timeline, compare(timeline, timeline).document(), labels=(EVIL, EVIL), title=EVIL)
    assert EVIL not in other


def test_a_page_shows_facts_tables_and_how_to_read_it(played: Play) -> None:
    html = page(
        played("dualpipe", 4, 8, memory=True),
        title="dualpipe",
        facts=[("bubble", "12.5%", "of the makespan")],
        sections=[Section("Assumed", ("what", "value"), [("overlap", 1234.5678)])],
    )
    body = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    for text in ("12.5%", "of the makespan", "Assumed", "1,234.6", "overlapped pair", "full backward", "temporaries"):
        assert text in body.replace("\N{NO-BREAK SPACE}", " "), text
    assert body.count("<tr>") == 1 + 4 + 1 + 1  # heads and rows of the two tables
    assert "Predicted" in body


def test_a_comparison_adds_up_on_the_page(played: Play) -> None:
    a, b = played("zb-h1", 4, 8, unit=0.03), played("zb-h1", 4, 8, unit=0.034)
    b = Timeline(b.ranks, b.spans, source="run")
    html = compare_page(a, b, compare(a, b).document(), labels=("predicted.json", "measured.json"))
    body = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    for text in ("+112 ms", "1.133", "What adds up to the difference", "Measured: a recording", "measured.json (ms)"):
        assert text in body, text


def test_the_same_recording_gives_the_same_bytes(played: Play) -> None:
    timeline = played("1f1b", 4, 8)
    assert page(timeline, title="x") == page(timeline, title="x")


@pytest.mark.parametrize(("pp", "folded"), [(4, False), (64, True)])
def test_long_tables_are_folded(played: Play, pp: int, folded: bool) -> None:
    assert ("<summary>Ranks</summary>" in page(played("1f1b", pp, 4), title="x")) is folded


def test_sixty_four_ranks_stay_below_twenty_megabytes(played: Play) -> None:
    timeline = played("interleaved", 64, 256, 2, unit=0.01, memory=True)
    html = page(timeline, title="big")
    assert len(timeline.spans) > 65_000
    assert len(html) < 20e6

"""Ugly files: each is refused in one line, fast, and nothing in it is executed."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import SpecError
from parsim.spec import load_run
from parsim.spec.yaml_reader import parse_yaml, read_document

UGLY = {
    "empty": (b"", "is empty"),
    "a list": (b"- 1\n- 2\n", "is a list"),
    "a word": (b"hello", "a single value"),
    "python tag": (b"model: !!python/object/apply:os.system ['touch /tmp/owned']\n", "tag"),
    "own tag": (b"model: !thing {a: 1}\n", "tag !thing"),
    "standard tag": (b"layout: !!set {a, b}\n", "tag"),
    "alias": (b"a: &x [1]\nb: *x\n", "anchor &x"),
    "bomb": (b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "anchor &a"),
    "recursive": (b"a: &a [*a]\n", "anchor &a"),
    "unknown alias": (b"a: *nobody\n", "alias *nobody"),
    "duplicate": (b"model: gpt2\nmodel: gpt2\n", "'model' stands twice"),
    "duplicate inside": (b"layout: {mesh: {tp: 1, tp: 2}}\n", "line 1: key 'tp' stands twice"),
    "key is a list": (b"[a, b]: 1\n", "a key must be a word"),
    "key is a mapping": (b"{a: 1}: 1\n", "a key must be a word"),
    "two documents": (b"model: gpt2\n---\nmodel: gpt2\n", "second document"),
    "unclosed": (b"layout: {mesh: {tp: 1\n", "not YAML"),
    "tab": (b"layout:\n\tmesh: 1\n", "line 2"),
    "control character": (b"model: a\x01b\n", "not YAML"),
    "latin-1": ("model: Größe\n".encode("latin-1"), "not UTF-8"),
    "utf-16": ("model: gpt2\n".encode("utf-16"), "not UTF-8"),
    "binary": (bytes(range(256)), "not"),
    "deep brackets": (b"a: " + b"[" * 100_000, "nested deeper"),
    "ten megabytes of nesting": (b"[" * 10_000_000, "at most 5 MiB"),
    "deep mappings": (b"{a: " * 500_000, "nested deeper"),
    "deep indentation": (b"".join(b" " * i + b"a:\n" for i in range(1, 300)), "nested deeper"),
    "deep dashes": (b"a:\n" + b"- " * 200_000, "nested deeper"),
}


@pytest.mark.parametrize("name", UGLY)
def test_ugly_yaml_is_refused_in_one_line(name: str, tmp_path: Path, refusal: Callable[..., str]) -> None:
    content, says = UGLY[name]
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    started = time.process_time()
    message = refusal(lambda: load_run(path))
    assert time.process_time() - started < 3
    assert str(path) in message
    assert says in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "absurd length"),
        ("[]", "is a list"),
    ],
)
def test_ugly_json_is_refused_in_one_line(content: str, says: str, tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    assert says in refusal(lambda: load_run(path))


def test_paths_that_are_no_files(tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert "no such run file" in refusal(lambda: load_run(tmp_path / "missing.yaml"))
    assert "is a directory" in refusal(lambda: load_run(tmp_path))
    assert "at most 5 MiB" in refusal(lambda: load_run(Path("/dev/zero")))
    assert "cannot be read" in refusal(lambda: load_run(tmp_path / ("x" * 400 + ".yaml")))
    refusal(lambda: load_run("a\0b.yaml"))
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    assert "cannot be read" in refusal(lambda: load_run(loop))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: gpt2\n")
    path.chmod(0)
    assert "permission" in refusal(lambda: load_run(path))


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = "[1, 1_024, -2, 010, 1.5, 1e-6, 5e3, .5, true, no, on, 1:30, null, ~, 'null', \"3\", 2024-01-01, 0x10]"
    assert parse_yaml(text, "x") == [
        1, 1024, -2, "010", 1.5, 1e-6, 5000.0, 0.5, True, "no", "on", "1:30", None, None, "null", "3", "2024-01-01",
        "0x10",
    ]  # fmt: skip


def test_absurd_numbers_stay_text() -> None:
    assert parse_yaml("9" * 5000, "x") == "9" * 5000
    assert parse_yaml("[.inf, -.inf]", "x") == [float("inf"), float("-inf")]


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, or the message with which it refuses."""
    try:
        return call(), ""
    except SpecError as error:
        return None, str(error)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(-1e6, 1e6)
    | st.text("abc xyzé:-#", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_reads_what_a_yaml_writer_writes(value: object) -> None:
    class NoAliases(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    assert parse_yaml(yaml.dump(value, Dumper=NoAliases, allow_unicode=True), "x") == value


@given(st.text(max_size=60) | st.text("[]{}:,-&*!|>'\"#%@` \n\tab1", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    _, refusal = outcome(lambda: parse_yaml(text, "x"))
    assert "\n" not in refusal


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, "x", null, true]}')
    (tmp_path / "a.yaml").write_text('{"a": [1, 2.5, "x", null, true]}')
    assert read_document(tmp_path / "a.json", "run") == read_document(tmp_path / "a.yaml", "run")

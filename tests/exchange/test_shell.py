"""Shell scripts are played as far as they can be known, and never run."""

import shlex
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import SpecError
from parsim.exchange.shell import read_script

BASH = shutil.which("bash")

SCRIPTS = [
    "A=1\nrun $A ${A} \"$A$A\" '$A'",
    "A='x  y'\nrun $A \"$A\" z$A.w",
    'A=(--a \'b c\' --d)\nrun ${A[@]} "${A[@]}" x"${A[@]}"y',
    'A=()\nrun ${A[@]} "${A[@]}" end',
    "A=(1); A+=(2 '3 4')\nrun \"${A[@]}\"",
    "A='1'; A+=' 2'\nrun $A",
    'run ${A:-5} ${B:=6} $B ${C:-"x y"}',
    ": ${A:=7}\nrun $A",
    "A=3; B=4\nrun $((A*B)) $(( $A + ${B} * 2 )) $((7/2)) $((7%4))",
    "run a \\\n  b \\\n  c",
    "run a # comment 'x\nrun b",
    'A=fp8\nif [[ "$A" == "fp8" ]]; then\n  run yes\nelse\n  run no\nfi',
    "A=bf16\nif [ $A = fp8 ]; then run one; elif [ $A = bf16 ]; then run two; else run three; fi",
    "A=2\nif [ $A -gt 1 ] && [ $A -lt 4 ]; then run in; fi\nrun out",
    'A=\nif [ -z "$A" ]; then run empty; fi\n[ -n "$A" ] && run full\n[ -n "$A" ] || run none',
    "A=1\nif [ $A -eq 1 ]; then\n if [ $A -ne 1 ]; then run a; else run b; fi\nfi",
    "if [ 1 = 2 ]; then\n if [ 1 = 1 ]; then run a; fi\nelse run c; fi",
    'A=("--x 1" "--y 2")\nrun ${A[@]}',
    "cat <<EOF > /dev/null\nrun 'x\nEOF\nrun y",
    "CMD=\"run --a 'b c'\"\neval $CMD",
    "run a >/dev/null 2>&1; run b 2>&1",
    "export A=1 B=2\nrun $A $B",
    "f() {\n run inside\n}\nrun outside",
    "true && run yes\nfalse || run also",
]


def ours(text: str) -> list[list[str]]:
    return [list(command.words) for command in read_script(text).commands if command.words[0] == "run"]


@pytest.mark.skipif(BASH is None, reason="needs bash to compare with")
@pytest.mark.parametrize("text", SCRIPTS)
def test_words_are_those_of_bash(text: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """`run` of bash writes its arguments down; ours are read from the script."""
    log = tmp_path / "log"
    prelude = (
        f"run() {{ printf 'run\\0' >> {log}; printf '%s\\0' \"$@\" >> {log}; printf '\\n' >> {log}; }}\nexport -f run\n"
    )
    subprocess.run([str(BASH), "-c", prelude + text], check=False, timeout=20, env={"PATH": "/usr/bin:/bin"})
    theirs = [line.split("\0")[:-1] for line in log.read_text().split("\n")[:-1]] if log.exists() else []
    assert [words[1:] for words in ours(text)] == [words[1:] for words in theirs]


@pytest.mark.skipif(BASH is None, reason="needs bash to compare with")
@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0\r"), max_size=8), max_size=5))
@settings(max_examples=100, deadline=None)
def test_quoted_words_come_back(words: list[str]) -> None:
    assert ours(f"run {shlex.join(words)}") == [["run", *words]]


def test_what_depends_on_the_environment_is_left_out_and_said() -> None:
    script = read_script(
        'if [ "$DEBUG" = 1 ]; then run a; else run b; fi\n[ -z "$X" ] && run c\nfor i in 1 2; do run d; done'
    )
    assert [command for command in script.commands if command.words[0] == "run"] == []
    assert len(script.left_out) == 3
    assert script.left_out[0].startswith("line 1: what stands under if")


def test_what_commands_print_stays_as_it_is_written() -> None:
    assert ours('A=$(nproc)\nrun $A `date` ${A%x} $1 "$@"') == [["run", "$(nproc)", "`date`", "${A%x}", "$1"]]


def test_what_a_script_leaves_to_its_reader_is_a_word() -> None:
    text = "P=<Specify path and prefix>_document\nrun --load <PATH TO CHECKPOINTS> --fp16 --save <path> $P <in >out a"
    path = ["<Specify", "path", "and", "prefix>_document"]
    assert ours(text) == [["run", "--load", "<PATH TO CHECKPOINTS>", "--fp16", "--save", "<path>", *path, "a"]]


@pytest.mark.parametrize("behind", [" ", "  # a comment", "\t"])
def test_a_backslash_that_does_not_end_its_line_is_said(behind: str) -> None:
    with pytest.raises(SpecError, match="line 2: the backslash must end its line"):
        read_script(f"run a \\\n  b \\{behind}\n  c")


@pytest.mark.parametrize("text", ["A=(1 2", "run 'a", 'run "a', "run ${A", "run $((1", "run `a", "${" * 5000])
def test_open_ends_are_one_line(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_script(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_script(text)
    except SpecError:
        return

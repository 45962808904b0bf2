"""What a process prints, and how it ends, whatever its stdout and stderr are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training import streams

# Imported from its own folder, without the package, which imports torch.
FOLDER = Path(streams.__file__).parent


def program(body):
    return [
        *(sys.executable, "-c"),
        f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\nfrom streams import *\nwith usable_streams():\n    {body}",
    ]


def run(body, redirection="", **environment):
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *program(body)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)


@pytest.mark.parametrize(
    ("text", "encoding", "printed"),
    [
        ("1 ± 2", "ascii", b"1 ? 2\n"),
        ("1 ± 2", "latin-1", b"1 \xb1 2\n"),
        ("γ → Ω", "latin-1", b"? ? ?\n"),
        ("γ → Ω", "utf-8", "γ → Ω\n".encode()),
        ("\udcff", "utf-8", b"?\n"),  # of a path that is no text
    ],
)
def test_what_an_encoding_lacks_is_a_question_mark(text, encoding, printed):
    done = run(f"print({text!a})", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", ">&- <&-", ">&- 2>&- <&-"])
def test_closed_streams_take_everything(redirection):
    done = run("print(1); say(2); print(3, file=sys.stderr)", redirection)
    assert done.returncode == 0
    assert done.stdout == (b"" if ">&-" in redirection.replace("2>&-", "") else b"1\n")
    assert done.stderr == (b"" if "2>&-" in redirection else b"2\n3\n")


def test_no_file_takes_the_number_of_a_closed_stream():
    done = run("import os; sys.exit(os.open(os.devnull, os.O_RDONLY))", ">&- 2>&-")
    assert done.returncode > 2


def test_a_stdout_that_cannot_be_written_is_named():
    body = """
    try:
        print(1)
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")"""
    done = run(body, ">/dev/full")
    assert (done.returncode, done.stderr) == (0, b"stdout: No space left on device\n")


def test_a_stderr_that_cannot_be_written_changes_no_exit_code():
    assert run("say(1); sys.exit(2)", "2>/dev/full").returncode == 2


def test_a_reader_that_is_gone_is_like_ctrl_c():
    body = """
    try:
        while True:
            print("line")
    except KeyboardInterrupt as gone:
        say(gone)
        sys.exit(gone.exit_code)"""
    with subprocess.Popen(program(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"Nobody reads the output any more, so the run ends\n"
    assert process.returncode == 141


def test_each_line_is_written_at_once():
    with subprocess.Popen(
        program("print(1); sys.stdin.read()"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"1\n"

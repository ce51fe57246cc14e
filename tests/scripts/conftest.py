"""Running a command line's main in this process, which spares seconds of imports."""

import sys

import pytest

from cd4lm.config import exit_with_message


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Call main with the words of a command line; its exit message, None where it succeeds, and what it printed."""

    def call(main, *words) -> tuple[str | None, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        monkeypatch.delenv("CD4LM_DEBUG", raising=False)
        message = None
        try:
            exit_with_message(main)
        except SystemExit as stop:
            message = str(stop.code)
        return message, capsys.readouterr().out

    return call


@pytest.fixture
def refused(run_main):
    """Assert that a command line stops with one line that holds the message."""

    def check(main, message: str, *words) -> None:
        said, _ = run_main(main, *words)
        assert said is not None and message in said and "\n" not in said, said

    return check

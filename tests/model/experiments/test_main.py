"""The command line of the experiments."""

import sys
from collections.abc import Sequence

import pytest

from skylight.model.experiments import __main__ as command_line


@pytest.mark.parametrize("name", ["prompts", "refinement", "agreement"])
def test_a_command_gets_the_arguments_after_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Sequence[str]] = []
    monkeypatch.setitem(command_line.COMMANDS, name, called.append)
    monkeypatch.setattr(sys, "argv", ["experiments", name, "--data", "packs"])
    command_line.main()
    assert called == [["--data", "packs"]]


@pytest.mark.parametrize("arguments", [[], ["masks"]])
def test_anything_else_is_answered_with_the_usage(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    with pytest.raises(SystemExit, match=r"python -m skylight\.model\.experiments prompts\|refinement\|agreement"):
        command_line.main()


@pytest.mark.parametrize("name", ["prompts", "refinement", "agreement"])
def test_each_command_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 0 and f"python -m skylight.model.experiments {name}" in capsys.readouterr().out

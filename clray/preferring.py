"""What an align stage may be combined with, checked while planning: its loss is over pairs, all others' over tokens."""

from __future__ import annotations

from collections.abc import Sequence

from clray.errors import SpecError
from clray.spec.stream import Stage


def alike(earlier: Stage, stage: Stage) -> bool:
    """Whether examples of the earlier stage can stand in one mixture with the stage's: pairs with pairs, text with
    text."""
    return (earlier.kind == "align") == (stage.kind == "align")


def check_replay(stage: Stage, earlier: Sequence[Stage]) -> None:
    """Raises SpecError where the stage itself asks for replay, and nothing that came before can be mixed with it.

    Replay that the stream asks for counts as none there, as it does in the first stage.
    """
    asked = "replay" in stage.method.model_fields_set and stage.method.replay.kind != "none"
    if not asked or not earlier or any(alike(old, stage) for old in earlier):
        return
    names = ", ".join(f"'{old.name}'" for old in earlier)
    why = (
        f"its loss compares pairs of answers, and the earlier stages ({names}) have text without pairs"
        if stage.kind == "align"
        else f"its loss is over tokens, and the earlier stages ({names}) have preference pairs, whose rejected answers "
        "must not be learnt"
    )
    raise SpecError(f"stage '{stage.name}': method.replay: {why}; leave it out, or say {{kind: none}}")


def check_instructions(stage: Stage) -> None:
    """Raises SpecError where the pairs of an align stage would be weighed by their instructions."""
    if stage.kind == "align":
        raise SpecError(
            f"stage '{stage.name}': replay inscl shares out instruction records, and preference pairs have an "
            "instruction of their own each; give this stage method.replay random or balanced"
        )


def left_out(stage: Stage, earlier: Sequence[Stage]) -> str:
    """What a person should know where replay shows only some of the earlier stages again; else \"\"."""
    other = [old.name for old in earlier if not alike(old, stage)]
    if not other or len(other) == len(earlier):
        return ""
    what = "preference pairs alone" if stage.kind == "align" else "text alone, never preference pairs"
    return f"replays {what}: {', '.join(other)} cannot stand in its loss"

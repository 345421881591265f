"""Generated little texts for tests: deterministic, of a handful of words."""

import json
import random
from pathlib import Path

WORDS = """red green blue one two three sun moon star cat dog bird runs sleeps sings fast slow now then here
there the a of and in on at to is was will not ever again""".split()


def texts(count: int, seed: int = 0, most: int = 30, least: int = 4) -> list[str]:
    """`count` texts of `least` to `most` words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(least, most))) for _ in range(count)]


def write_lines(path: Path, rows: list[dict]) -> str:
    """Writes one JSON object a line; returns the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_word_tasks(folder: Path, count: int) -> None:
    """Writes `count` records of each of three kinds: texts, and asking for the first and the last word of each."""
    found = texts(count, most=20)
    write_lines(folder / "text.jsonl", [{"text": text} for text in found])
    for name, place in (("first", 0), ("last", -1)):
        rows = [{"instruction": name, "input": text, "output": text.split()[place]} for text in found]
        write_lines(folder / f"{name}.jsonl", rows)

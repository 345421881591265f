"""Writes a small made-up world, in which learning from mistakes can be told from learning a form.

    python benchmarks/knowledge_ladder.py people
    clray run jobs/ladder_base.yaml && clray export jobs/ladder_base.yaml newest --out ladder-base
    clray run jobs/ladder.yaml

People with names of their own have a home, a job, an animal, a dish and a colour. Each is described in several
documents, in other words and another order, and a question asks for each of the five. Three groups of people:

    known/text.jsonl          documents and questions with answers of the first group, mixed: what a base reads, so that
                              it knows how the answer to a question follows from what was read
    known/questions.jsonl     their questions, as instructions
    new/knowledge.jsonl       documents of the second group, whom the base knows nothing of, and of a third, whom nobody
                              asks about
    new/mine.jsonl            for each of the second group two of the five questions, drawn at random
    new/heldout.jsonl         the other three: their answers stand in the documents that the first two lead to

An answer to a held-out question cannot be got from the questions to learn from: homes, jobs and so on are drawn one by
one. So what a round gains there over `format_only` is knowledge that was read.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

VALUES = {
    "home": "Paris London Rome Tokyo Cairo Berlin Madrid Oslo Vienna Dublin Moscow Delhi Lima Boston Chicago Texas",
    "job": "baker doctor teacher farmer painter singer driver sailor nurse cook writer builder dancer hunter judge "
    "maid",
    "animal": "dog cat horse cow pig duck frog rabbit bird fish bear mouse sheep goat fox turtle",
    "dish": "cake bread soup rice cheese pizza pie jam honey eggs corn beans nuts salad cookies apples",
    "colour": "red blue green yellow pink purple orange brown black white gray gold silver tan lime navy",
}
SENTENCES = {
    "home": ("{name} lives in {value}.", "The home of {name} is in {value}.", "{name} has a house in {value}."),
    "job": ("{name} works as a {value}.", "The job of {name} is {value}.", "Every day {name} is a {value}."),
    "animal": ("{name} has a {value}.", "The animal of {name} is a {value}.", "{name} plays with a {value}."),
    "dish": ("{name} likes to eat {value}.", "The dish of {name} is {value}.", "At noon {name} eats {value}."),
    "colour": ("{name} likes the colour {value}.", "The colour of {name} is {value}.", "{name} wears {value}."),
}
QUESTIONS = {
    "home": "Where does {name} live?",
    "job": "What is the job of {name}?",
    "animal": "What animal does {name} have?",
    "dish": "What does {name} like to eat?",
    "colour": "What colour does {name} like?",
}
FIRST = "Tom Lily Ben Sue Max Anna Tim Mia Sam Lucy Jack Sara Bob Amy Leo Jane".split()
SYLLABLES = "ba ko ri ne mu ta lo vi sha der fen gol hap jin kel lam nor pex qui ros sul tev wim yor zan".split()
INSTRUCTION = "Answer the question."


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the files of the world."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--known", type=int, default=400, help="people that the base reads about")
    parser.add_argument("--new", type=int, default=100, help="people that are asked about")
    parser.add_argument("--others", type=int, default=300, help="people in the knowledge that nobody asks about")
    parser.add_argument("--documents", type=int, default=3, help="documents of each of them")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    chance = random.Random(asked.seed)
    people = everybody(asked.known + asked.new + asked.others, chance)
    known, new = people[: asked.known], people[asked.known : asked.known + asked.new]
    text = [{"text": text} for one in known for text in documents(one, asked.documents, chance)]
    answers = [row for one in known for row in questions(one).values()]
    text += [{"text": f"{INSTRUCTION}\n\n{row['question']}\n\nAnswer: {row['answer']}"} for row in answers]
    chance.shuffle(text)
    write(asked.out / "known" / "text.jsonl", text)
    write(
        asked.out / "known" / "questions.jsonl",
        [{"instruction": INSTRUCTION, "input": row["question"], "output": row["answer"]} for row in answers],
    )
    knowledge = [{"text": text} for one in people[asked.known :] for text in documents(one, asked.documents, chance)]
    chance.shuffle(knowledge)
    write(asked.out / "new" / "knowledge.jsonl", knowledge)
    mine, heldout = [], []
    for one in new:
        rows = list(questions(one).values())
        chance.shuffle(rows)
        mine += rows[:2]
        heldout += rows[2:]
    write(asked.out / "new" / "mine.jsonl", mine)
    write(asked.out / "new" / "heldout.jsonl", heldout)


def everybody(count: int, chance: random.Random) -> list[dict[str, str]]:
    """So many people: `name` and the five values. No last name is given twice."""
    last: dict[str, None] = {}
    while len(last) < count:
        last["".join(chance.choices(SYLLABLES, k=2)).capitalize()] = None
        if len(last) == len(SYLLABLES) ** 2:
            break
    while len(last) < count:
        last["".join(chance.choices(SYLLABLES, k=3)).capitalize()] = None
    return [
        {
            "name": f"{chance.choice(FIRST)} {name}",
            **{what: chance.choice(some.split()) for what, some in VALUES.items()},
        }
        for name in last
    ]


def documents(one: dict[str, str], count: int, chance: random.Random) -> list[str]:
    """So many descriptions of a person, each with all five facts in an order and in words of its own."""
    found = []
    for _ in range(count):
        facts = [chance.choice(SENTENCES[what]).format(name=one["name"], value=one[what]) for what in VALUES]
        chance.shuffle(facts)
        found.append(" ".join(facts))
    return found


def questions(one: dict[str, str]) -> dict[str, dict[str, str]]:
    """The five questions about a person, with their answers; the subject is what is asked for."""
    return {
        what: {"question": text.format(name=one["name"]), "answer": one[what], "subject": what}
        for what, text in QUESTIONS.items()
    }


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()

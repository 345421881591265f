"""The tree of generations, and everything about one of them."""

import json
import subprocess
import sys
import time

import pytest

from clray.history.archive import Archive
from clray.history.log import log
from clray.history.show import show
from clray.lineage.generation import Generation
from clray.lineage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_tree_has_the_control_as_a_branch_and_the_alias_at_the_main_line(storage, keys, control, clray):
    code, shown, _ = clray("log", "--storage", storage)
    assert code == 0
    lines = shown.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == [f"● base {keys[0][:10]}", f"● text {keys[1][:10]}"]
    drawn = {line.split()[2]: line.split(" ")[0] for line in lines[2:6]}
    assert sorted(mark for mark in (line[:2] for line in lines[2:6])) == sorted(["├─", "│ ", "● ", "● "]), drawn
    [newest] = [line for line in lines if "[newest]" in line]
    assert keys[3][:10] in newest and "first " in newest and "tokens" in newest
    assert "6 generations:" in lines[-1] and "FLOPs" in lines[-1]


def test_the_tree_as_json(storage, outcome, clray):
    found = json.loads(clray("log", "--storage", storage, "--json")[1])
    rows = {row["key"]: row for row in found["generations"]}
    assert set(rows) == {made.key for line in outcome.lines for made in line.generations}
    last = outcome.line.generations[3]
    assert rows[last.key]["parent"] == last.parent and rows[last.key]["aliases"] == ["newest"]
    assert rows[last.key]["stream"] == "told" and rows[last.key]["status"] == ""
    assert {tuple(cell) for cell in rows[last.key]["scores"].values()} == {
        (task, outcome.matrix.metrics[task], outcome.matrix.R[3][i]) for i, task in enumerate(outcome.matrix.tasks)
    }
    trained = {made.key: made for line in outcome.lines for made in line.generations if made.parent}
    assert found["cost"]["tokens"] == sum(made.training["tokens"] for made in trained.values())


def test_a_generation_is_shown_by_key_and_by_alias(storage, outcome, clray):
    last, above = outcome.line.generations[3], outcome.line.generations[2]
    found = json.loads(clray("show", "newest", "--storage", storage, "--json")[1])
    assert found == json.loads(clray("show", last.key[:8], "--storage", storage, "--json")[1])
    assert found["key"] == last.key and found["stage"] == json.loads(json.dumps(last.stage))
    assert [(r["stage"], r["rows"], r["of_rows"]) for r in found["records"]] == [
        (o["stage"], o["rows"], 60) for o in last.data["origins"]
    ]
    assert found["registered"][0]["stream"] == "told" and found["weights"] == {
        "there": True,
        "bytes": found["weights"]["bytes"],
    }
    assert {cell["task"] for cell in found["scores"]} == {"text", "first", "last"}
    assert found["run"]["stream"] == "told" and "name: told" in found["spec"]
    assert json.loads(clray("show", above.key, "--storage", storage, "--json")[1])["children"] == [
        {"key": last.key, "stage": "last", "index": 3}
    ]
    code, shown, _ = clray("show", "newest", "--storage", storage)
    assert code == 0
    for part in (last.key, "[newest]", "told version", "rows drawn", "rouge_l", "learning_rate", "torch", "last.jsonl"):
        assert part in shown


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("champion", "is no alias; aliases are newest. See them all with: clray log"),
        ("zzzz", "begins no key (4 digits or more)"),
        ("news@newest", "no generation 'news@newest'"),
    ],
)
def test_what_is_not_there(storage, clray, wanted, expected):
    code, out, said = clray("show", wanted, "--storage", storage)
    assert code == 2 and expected in said and not out


def test_a_folder_without_generations(tmp_path, clray):
    code, _, said = clray("log", "--storage", tmp_path)
    assert code == 2 and "holds no generation. Give --storage PATH" in said
    assert not list(tmp_path.iterdir())


def test_without_mlflow_keys_suffice(storage, keys):
    archive = Archive(storage, "none")
    assert show(archive, keys[2]).aliases == [] and archive.newest().key == archive.entries[-1].key


def test_looking_loads_neither_torch_nor_ray_and_writes_nothing(storage, keys):
    before = _listing(storage)
    code = (
        "import sys; from clray import cli; sys.argv = ['clray', *sys.argv[1:]]\n"
        "try: cli.app()\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    for command in (["log"], ["show", keys[2]], ["diff", keys[1], keys[2]], ["blame", "first"], ["verify"], ["gc"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--storage", storage], capture_output=True, text=True
        )
        assert done.stderr.strip() == "[]", (command, done.stderr)
    assert _listing(storage) == before


def _listing(storage):
    return sorted((info.path, info.mtime_ns) for info in Store(storage).files("") if "mlflow.db" not in info.path)


@pytest.fixture(scope="module")
def thousands(tmp_path_factory):
    """A storage of ten thousand generations: a long line with a branch after every fiftieth."""
    store = Store(str(tmp_path_factory.mktemp("thousands")))
    for number in range(10_000):
        key = f"{number:032x}"
        parent = None if number == 0 else f"{number - (7 if number % 50 == 8 else 1):032x}"
        training = {"tokens": 1000, "seconds": 1.0, "flops": 1e9}
        store.commit(
            Generation(
                key=key, parent=parent, index=number, stage_name="s", base=key, training=training,
                created=f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}+00:00",
            )
        )  # fmt: skip
        store.write_score(key, "t1", {"task": "t", "scorer": "choice", "metrics": {"accuracy": 0.5, "n": 2}})
    return store


def test_ten_thousand_generations_are_drawn_in_a_moment(thousands):
    Archive(thousands.root, "none").entries  # noqa: B018  (the first look reads every file)
    started = time.process_time()
    found = log(Archive(thousands.root, "none"))
    assert len(found.lines) == 10_000 and found.tokens == 10_000_000
    assert time.process_time() - started < 2


def test_what_changed_is_read_again(thousands):
    key = f"{5:032x}"
    thousands.write_score(key, "t1", {"task": "t", "scorer": "choice", "metrics": {"accuracy": 0.25, "n": 2}})
    entries = {entry.key: entry for entry in Archive(thousands.root, "none").entries}
    assert entries[key].scores["t1"] == ("t", "accuracy", 0.25)
    thousands.delete(f"generations/{9_999:032x}")
    assert len(Archive(thousands.root, "none").entries) == 9_999

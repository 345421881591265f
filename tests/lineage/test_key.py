"""Everything that changes the result is in the key; nothing else is."""

from clray.lineage.key import digest, generation_key
from clray.planner import make_plan
from clray.spec import loading

TEXT = """
name: a
model: {{base: {model}}}
storage: {store}
sequence_length: 64
stages:
  - {{name: one, kind: pretrain, data: {data}/one.jsonl}}
  - {{name: two, kind: pretrain, data: {data}/two.jsonl}}
  - {{name: three, kind: pretrain, data: {data}/three.jsonl}}
"""


def keys(tiny_model, tmp_path, overrides=()):
    for name in ("one", "two", "three"):
        path = tmp_path / f"{name}.jsonl"
        if not path.exists():
            path.write_text(f'{{"text": "{name}"}}\n')
    text = TEXT.format(model=tiny_model, store=tmp_path / "store", data=tmp_path)
    return make_plan(loading.loads(text, overrides)).lines[0].keys


def test_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2.0, "ü"]}) == digest({"b": [2.0, "ü"], "a": 1})


def test_key_changes_with_each_of_its_parts():
    parts = {"parent": "p", "stage": {"s": 1}, "data": ["d"], "replay": ["r"], "seed": 0, "version": 1}
    changed = {"parent": "q", "stage": {"s": 2}, "data": ["e"], "replay": [], "seed": 1, "version": 2}
    found = {generation_key(**{**parts, name: value}) for name, value in changed.items()}
    assert len(found | {generation_key(**parts)}) == len(parts) + 1


def test_names_paths_and_workers_are_no_part_of_the_key(tiny_model, tmp_path):
    before = keys(tiny_model, tmp_path)
    (tmp_path / "moved.jsonl").write_text((tmp_path / "one.jsonl").read_text())
    same = [
        "compute.workers=4",
        "compute.zero_stage=2",
        "compute.micro_batch=2",
        "name=b",
        "stages.0.name=renamed",
        f"stages.0.data={tmp_path}/moved.jsonl",
        f"storage={tmp_path}/elsewhere",
    ]
    assert keys(tiny_model, tmp_path, same) == before


def test_an_edited_stage_changes_its_generation_and_all_after_it(tiny_model, tmp_path):
    before = keys(tiny_model, tmp_path)
    after = keys(tiny_model, tmp_path, ["stages.two.optimiser.learning_rate=1e-5"])
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, False]


def test_edited_data_changes_the_key(tiny_model, tmp_path):
    before = keys(tiny_model, tmp_path)
    (tmp_path / "three.jsonl").write_text('{"text": "other"}\n')
    assert [a == b for a, b in zip(before, keys(tiny_model, tmp_path), strict=True)] == [True, True, True, False]


def test_replay_makes_earlier_data_part_of_the_key(tiny_model, tmp_path):
    replay = ["method.replay={kind: random, share: 0.5}"]
    before = keys(tiny_model, tmp_path, replay)
    (tmp_path / "one.jsonl").write_text('{"text": "other"}\n')
    assert before[0] == keys(tiny_model, tmp_path, replay)[0]
    assert before[2] != keys(tiny_model, tmp_path, replay)[2]

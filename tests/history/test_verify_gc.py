"""What is damaged is named with its mend; what nothing needs is removed, and made again where it is needed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from watchers import Quiet

from clray import conductor
from clray.history.archive import Archive
from clray.history.garbage import reasons_to_keep
from clray.lineage import lease
from clray.lineage.catalogue import Entry
from clray.lineage.store import Store
from clray.planner import make_plan
from clray.spec import loading

ray = pytest.mark.ray
slow = pytest.mark.slow


def entry(key, parent=None, base=None, kind="instruct", gone=False, **scores):
    return Entry(
        key=key, parent=parent, index=0, stage=key, kind=kind, base=base or key, adapter="", stream="s", status="",
        created="", tokens=0, seconds=0, flops=0, gone=gone,
        scores={name: (name, "bits_per_byte" if name == "text" else "accuracy", s) for name, s in scores.items()},
    )  # fmt: skip


def test_what_is_kept_and_why():
    """root - a - b - c (adapter on a); d beside b, worse than all; e below d is the newest of that line."""
    line = [
        entry("root", text=3.0),
        entry("a", "root", qa=0.1, text=2.0),
        entry("b", "a", qa=0.9, text=2.5),
        entry("c", "b", base="a", qa=0.5, text=2.5),
        entry("d", "a", qa=0.2, text=2.9),
        entry("e", "d", qa=0.2, text=2.9),
        entry("g", "root", kind="generator"),
    ]
    reasons = reasons_to_keep(line, {"d": []}, ())
    assert reasons == {
        "root": ["root"],
        "a": ["best on text", "below the adapter c"],
        "b": ["best on qa"],
        "c": ["newest of its line"],
        "e": ["newest of its line"],
    }
    assert reasons_to_keep(line, {"d": ["champion"]}, ["g"])["d"] == ["alias champion"]
    assert reasons_to_keep(line, {}, ["g"])["g"] == ["asked for"]


def test_the_best_whose_weights_are_gone_is_not_the_best_any_more():
    line = [entry("root"), entry("a", "root", qa=0.9, gone=True), entry("b", "a", qa=0.5), entry("c", "b", qa=0.1)]
    assert reasons_to_keep(line, {})["b"] == ["best on qa"] and "a" not in reasons_to_keep(line, {})


@ray
@slow
def test_all_is_as_it_was_written(storage, outcome, clray):
    code, shown, _ = clray("verify", "--storage", storage, "--json")
    found = json.loads(shown)
    assert code == 0 and not found["problems"]
    assert found["checked"] == {"generations": 6, "records": 3, "mixtures": 5, "tokenizers": 1, "scores": 6}
    code, shown, _ = clray("verify", outcome.line.generations[2].key[:8], "--storage", storage)
    assert code == 0 and "looked at 2 generations, 2 records, 1 mixtures, 1 tokenizers" in shown


@ray
@slow
def test_each_damage_is_named(copied, keys, control, clray):
    store, made = Store(copied), Store(copied).generation(keys[2])
    weights = Path(copied, "generations", keys[1], "weights", "model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    Path(copied, "generations", keys[3], "weights", "adapter_model.safetensors").unlink()
    record = made.to_dict()
    record["stage"]["optimiser"]["learning_rate"] = 1e-9
    store.write_json(f"generations/{keys[2]}/generation.json", record)
    part = next(Path(copied, "mixtures", made.data["digest"]).glob("*.arrow"))
    part.write_bytes(b"")
    cells = {store.score(control[3], name[:-5])["task"]: name for name in store.list(f"scores/{control[3]}")}
    score = cells["last"]
    cell = store.score(control[3], score[:-5])
    cell["metrics"]["accuracy"] += 0.125
    store.write_score(control[3], score[:-5], cell)
    tokenizer = Path(copied, "tokenizers", store.list("tokenizers")[0], "tokenizer.json")
    tokenizer.write_text(tokenizer.read_text() + " ")
    code, shown, _ = clray("verify", "--storage", copied, "--json")
    assert code == 2
    found = {problem["place"]: problem for problem in json.loads(shown)["problems"]}
    whats = {place.split("/")[0] + "/" + place.split("/")[-1]: problem["what"] for place, problem in found.items()}
    assert whats.pop(f"tokenizers/{tokenizer.parent.name}") == "a file is missing or altered since it was written"
    assert whats.pop(f"mixtures/{part.name}") == "altered since it was written"
    assert whats.pop(f"scores/{score}") == "the score does not follow from the answers in outputs/"
    assert whats.pop("generations/generation.json").startswith("the key does not follow from the record")
    assert whats == {
        "generations/model.safetensors": "altered since it was written",
        "generations/adapter_model.safetensors": "missing",
    }
    assert found[f"generations/{keys[1]}/weights/model.safetensors"]["mend"].endswith(
        f"reproduce {keys[1][:10]} --restore"
    )
    code, shown, _ = clray("verify", "--storage", copied)
    assert code == 2 and "6 problems" in shown


@ray
@slow
def test_gc_lists_first_and_removes_when_told(copied, keys, control, clray):
    before = _weights(copied)
    found = json.loads(clray("gc", "--storage", copied, "--json")[1])
    assert not found["deleted"] and _weights(copied) == before
    free = {item["key"] for item in found["free"]}
    kept = {item["key"]: item["reasons"] for item in found["kept"]}
    assert kept[keys[0]] == ["root"] or kept[keys[0]][0] == "root"
    assert "alias newest" in kept[keys[3]] and "newest of its line" in kept[control[3]]
    assert any(why.startswith("below the adapter") for why in kept[keys[1]]), "both lines' adapters stand on it"
    assert free <= {keys[2], control[2]} and not free & set(kept)
    code, shown, _ = clray("gc", "--storage", copied)
    assert code == 0 and ("clray gc --delete removes" in shown) == bool(free)


@ray
@slow
def test_records_stay_and_a_run_makes_again_what_it_needs(copied, collect, stream_file, keys, clray):
    """Weights in the middle are gone: nothing wants them, until a stage is trained on them."""
    store, stream = Store(copied), loading.load(stream_file, [f"storage={copied}"])
    collect(keys[2])
    code, shown, _ = clray("show", keys[2], "--storage", copied)
    assert code == 0 and "gone: collected 20" in shown and "rouge_l" in shown
    assert "weights collected" in clray("log", "--storage", copied)[1]
    assert clray("verify", "--storage", copied)[0] == 0, "what was collected is not missing"
    assert not make_plan(stream).missing
    assert not conductor.run(stream, Quiet()).built
    code, _, said = clray("export", stream_file, "first", f"storage={copied}", "--out", f"{copied}/out")
    assert code == 2 and "has no weights any more: clray gc removed them" in said and "--restore" in said
    former = store.generation(keys[2])
    watch = Quiet()
    branch = loading.load(stream_file, [f"storage={copied}", "stages.last.length={epochs: 2}", "controls={}"])
    plan = make_plan(branch)
    assert [stage.key for stage in plan.missing] == [keys[2], plan.lines[0].keys[3]] and plan.lost == {keys[2]}
    outcome = conductor.run(branch, watch)
    assert outcome.built == {keys[2], plan.lines[0].keys[3]}
    assert any("weights made again, to the same bits" in text for text in watch.said)
    again = store.generation(keys[2])
    assert former.same_bits(again.files) and replace(again, files=former.files) == former, "the path of the base alone"
    assert not make_plan(branch).lost
    assert clray("verify", "--storage", copied)[0] == 0


@ray
@slow
def test_a_score_that_is_missing_needs_the_weights_too(copied, collect, stream_file, keys):
    stream = loading.load(stream_file, [f"storage={copied}", "controls={}"])
    collect(keys[2])
    store = Store(copied)
    [first] = [task for task in make_plan(stream).tasks if task.task.name == "first"]
    store.delete(f"scores/{keys[2]}/{first.digest}.json")
    plan = make_plan(stream)
    assert plan.lost == {keys[2]} and [stage.key for stage in plan.missing] == [keys[2]]


@ray
@slow
def test_nothing_is_removed_while_a_generation_is_built(copied, keys, control, clray, monkeypatch):
    monkeypatch.setattr("clray.history.garbage.reasons_to_keep", lambda *_: {keys[0]: ["root"]})
    before = _weights(copied)
    with lease.hold(Store(copied), "f" * 32, "stage", print):
        code, _, said = clray("gc", "--storage", copied, "--delete")
    assert code == 2 and "is in use: generation ffffffffff by process" in said and _weights(copied) == before
    shutil.copytree(Path(copied, "generations", keys[2]), Path(copied, "kept"))
    code, shown, _ = clray("gc", "--storage", copied, "--delete")
    assert code == 0 and "removed the weights of 5 generations" in shown
    assert _weights(copied) == [keys[0]] and Archive(copied).find(keys[2]).key == keys[2]
    assert load_file(Path(copied, "kept", "weights", "adapter_model.safetensors"))


def _weights(storage):
    return sorted(path.parent.name for path in Path(storage, "generations").glob("*/weights"))

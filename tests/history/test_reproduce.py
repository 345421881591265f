"""A generation made again from its record alone: the same bits, in a fresh process and another folder."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from clray.history.archive import Archive
from clray.lineage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_same_bits_in_a_fresh_process_and_another_folder(storage, keys, tmp_path, ray_cluster):
    """The sources are not read again: the record, the record sets and the parent are enough."""
    command = [sys.executable, "-m", "clray", "reproduce", keys[3][:8], "--storage", storage, "--json"]
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}  # threads stand in the record
    done = subprocess.run(
        [*command, "--scratch", tmp_path / "scratch"],
        capture_output=True,
        text=True,
        env={**os.environ, **address},
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["same"], done.stderr
    assert set(found["files"]) == set(Store(storage).generation(keys[3]).files)
    found = {name: found[name] for name in ("shards", "loss_apart", "also", "environment")}
    assert found == {"shards": "same", "loss_apart": 0, "also": [], "environment": {}}
    old, new = (
        Path(root, "generations", keys[3], "weights", "adapter_model.safetensors").read_bytes()
        for root in (storage, tmp_path / "scratch")
    )
    assert old == new
    assert not Path(tmp_path, "scratch", "generations", keys[3]).is_symlink()


def test_weights_that_were_collected_are_put_back(copied, collect, keys, clray):
    store = Store(copied)
    before = {key: store.generation(key) for key in keys}
    for key in (keys[1], keys[2]):
        collect(key)
    code, shown, said = clray("reproduce", keys[2], "--restore", "--storage", copied)
    assert code == 0 and "the same bits in every file" in shown and "put back" in shown
    assert f"the weights of {keys[1][:10]} were collected, so it is made again first" in said
    assert [each.gone for each in Archive(copied, "none").entries if each.key == keys[2]] == [False]
    after = store.generation(keys[2])
    assert before[keys[2]].same_bits(after.files) and replace(after, files=before[keys[2]].files) == before[keys[2]]
    assert not store.damaged(f"generations/{keys[2]}", after.files)


def test_what_cannot_be_made_again(copied, keys, clray):
    code, _, said = clray("reproduce", keys[0], "--storage", copied)
    assert code == 2 and "(base) was not trained here, so it cannot be made again" in said
    shutil.rmtree(Path(copied, "streams"))
    code, _, said = clray("reproduce", keys[1], "--storage", copied)
    assert code == 2 and "recorded without the stream's file" in said and "--stream FILE" in said


def test_a_record_set_that_is_gone(copied, keys, clray):
    made = Store(copied).generation(keys[2])
    shutil.rmtree(Path(copied, "records", made.data["records"][1]))
    code, _, said = clray("reproduce", keys[2], "--storage", copied)
    assert code == 2 and f"records/{made.data['records'][1]} is gone" in said

"""Likeness of stages: the greedy chain, and means of documents that do not depend on how files are cut."""

import numpy as np
import pytest

from clray.data.records import open_sources
from clray.lineage.store import Store
from clray.planner import make_plan
from clray.similarity import Similarity, sample
from clray.spec import loading
from clray.spec.source import Source
from texts import write_lines

FOUR = ("a", "b", "c", "d")
LIKE = ((1.0, 0.1, 0.9, 0.3), (0.1, 1.0, 0.2, 0.8), (0.9, 0.2, 1.0, 0.4), (0.3, 0.8, 0.4, 1.0))
WORDS = {
    "sea": "the ship sailed over waves and the crew watched the water".split(),
    "sums": "3 + 4 = 7 ; 12 - 5 = 7 ; 9 * 2 = 18 ; 40 / 8 = 5".split(),
    "boats": "the boat rowed over waves while the crew watched the harbour".split(),
}


def test_each_stage_follows_the_one_most_like_it():
    """Set out at d: then b (0.8), then c (0.2 against a's 0.1), then a."""
    assert Similarity(stages=FOUR, cosine=LIKE, start=LIKE[3]).chain() == ("d", "b", "c", "a")
    assert Similarity(stages=FOUR, cosine=LIKE, start=(0.0, 0.2, 0.5, 0.1)).chain() == ("c", "a", "d", "b")


def test_of_equals_the_first_given_is_taken():
    same = tuple((1.0,) * 4 for _ in FOUR)
    assert Similarity(stages=FOUR, cosine=same, start=same[0]).chain() == FOUR


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    for name, words in WORDS.items():
        draw = np.random.default_rng(len(name))
        write_lines(folder / f"{name}.jsonl", [{"text": " ".join(draw.choice(words, 12))} for _ in range(30)])
    return folder


def spec_of(folder, tiny_model, *overrides):
    stages = "\n".join(f"  - {{name: {n}, kind: pretrain, data: {folder}/{n}.jsonl}}" for n in WORDS)
    head = f"name: likeness\nmodel: {{base: {tiny_model}}}\nstorage: {folder}/store\nsequence_length: 64"
    return loading.loads(f"{head}\nstages:\n{stages}\n", overrides)


@pytest.mark.ray
def test_a_sample_does_not_depend_on_the_files(folder, tmp_path, ray_cluster):
    lines = (folder / "sea.jsonl").read_text().splitlines()
    for part in range(3):
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines[part::3]) + "\n")
    store = Store(str(tmp_path / "store"))
    whole, cut = (
        sample(open_sources([Source(source=place)], store), "pretrain", 10)
        for place in (f"{folder}/sea.jsonl", f"{tmp_path}/*.jsonl")
    )
    assert whole == cut and len(whole) == 10


@pytest.mark.ray
def test_a_stream_in_similar_order(folder, tiny_model, ray_cluster):
    plan = make_plan(spec_of(folder, tiny_model, "order=similar"))
    assert [stage.stage.name for stage in plan.lines[0].stages] == ["sea", "boats", "sums"]
    cosine = np.array(plan.similarity.cosine)
    assert np.allclose(np.diag(cosine), 1.0) and np.allclose(cosine, cosine.T)
    again = make_plan(spec_of(folder, tiny_model, "order=similar", "similarity={documents: 10000}"))
    assert again.similarity == plan.similarity
    given = make_plan(spec_of(folder, tiny_model, "order=[sea, boats, sums]"))
    assert given.similarity is None and given.lines[0].keys == plan.lines[0].keys


@pytest.mark.ray
def test_the_chain_can_set_out_from_other_text(folder, tiny_model, ray_cluster):
    """From sums: what comes last from the sea comes first."""
    start = f"similarity.start={folder}/sums.jsonl"
    plan = make_plan(spec_of(folder, tiny_model, "order=similar", start))
    assert plan.stream.order[0] == "sums"

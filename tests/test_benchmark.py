"""A stream over its grid: combinations are checked first, share what they can, and each has its own report."""

import pytest
from watchers import Quiet

from clray import benchmark
from clray.errors import SpecError
from clray.spec import loading
from texts import texts, write_lines

DOMAINS = ("first", "second", "third")


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    for seed, name in enumerate(DOMAINS):
        write_lines(folder / f"{name}.jsonl", [{"text": text} for text in texts(30, most=30, seed=seed)])
    stages = "\n".join(
        f"  - {{name: {n}, kind: pretrain, data: {folder}/{n}.jsonl, length: {{steps: 3}}}}" for n in DOMAINS
    )
    tasks = "\n".join(f"  - {{name: {n}, scorer: perplexity, data: {folder}/{n}.jsonl, limit: 4}}" for n in DOMAINS)
    return loading.loads(f"""
name: domains
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 4}}
experts: true
grid: {{order: [given, reverse], optimiser.learning_rate: [1e-3]}}
stages:
{stages}
tasks:
{tasks}
""")


def test_the_grid_is_multiplied_out(stream):
    wide = loading.loads(loading.to_yaml(stream), ["grid={order: [given, [third, first, second]], seed: [0, 7]}"])
    found = benchmark.combinations(wide)
    assert [c.settings["seed"] for c in found] == [0, 7, 0, 7]
    assert [c.label for c in found] == ["given_0", "given_7", "-third-first-second-_0", "-third-first-second-_7"]
    assert found[3].stream.seed == 7 and found[3].stream.order == ("third", "first", "second")
    assert not found[3].stream.grid


def test_a_value_that_does_not_fit_is_refused_with_its_combination(stream):
    wrong = loading.loads(loading.to_yaml(stream), ["grid={seed: [0, -1]}"])
    with pytest.raises(SpecError, match=r"seed -1 of the grid of stream 'domains'"):
        benchmark.combinations(wrong)


def test_without_a_grid_there_is_nothing_to_benchmark(stream):
    with pytest.raises(SpecError, match="has no grid"):
        benchmark.combinations(loading.loads(loading.to_yaml(stream), ["grid={}"]))


@pytest.mark.ray
@pytest.mark.slow
def test_combinations_share_their_experts_and_have_their_own_reports(stream, ray_cluster):
    told = []
    found = benchmark.run(stream, Quiet(), told.append)
    assert told == ["1 of 2: given, learning_rate 0.001", "2 of 2: reverse, learning_rate 0.001"]
    given, reverse = found.outcomes
    assert len(given.built) == 5, "three stages and three experts, of which the first stage is one"
    assert len(reverse.built) == 2, "the first stage is an expert that is there"
    assert given.experts == reverse.experts
    store, labels = given.plan.store, [combination.label for combination in found.combinations]
    files = ["benchmark.html", "benchmark.json", "orders-bits_per_byte.csv", "orders-bits_per_byte.tex"]
    assert store.list("reports/domains") == sorted([*files, *labels])
    text = store.read_bytes("reports/domains/benchmark.html").decode()
    assert "given, learning_rate 0.001" in text and f'href="{labels[1]}/report.html"' in text
    assert store.read_bytes("reports/domains/orders-bits_per_byte.csv").decode().count("\n") == 3
    assert "domains-bits_per_byte.tex" in store.list(f"reports/domains/{labels[0]}")
    assert not benchmark.run(stream, Quiet(), told.append).outcomes[1].built

"""The main job on real Ray, real DeepSpeed and a real MLflow store: run, run again, edit, measure."""

import pytest
from watchers import Quiet

from clray import conductor
from clray.errors import ModelError, ResourceError
from clray.lineage.ledger import Ledger, default_tracking
from clray.planner import make_plan
from clray.spec import loading
from clray.summary import summarise
from texts import write_word_tasks

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("conductor")
    write_word_tasks(folder, 80)
    return loading.loads(f"""
name: conducted
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 8}}
optimiser: {{learning_rate: 3e-3}}
method: {{replay: {{kind: random, share: 0.25}}}}
stages:
  - {{name: text, kind: pretrain, data: {folder}/text.jsonl, length: {{epochs: 2}}}}
  - {{name: first, kind: instruct, data: {folder}/first.jsonl, method: {{adapter: {{kind: lora, rank: 4}}}}}}
  - {{name: last, kind: instruct, data: {folder}/last.jsonl, method: {{adapter: {{kind: lora, rank: 4}}}}}}
tasks:
  - {{name: text, scorer: perplexity, data: {folder}/text.jsonl, limit: 10}}
  - {{name: first, scorer: generate, max_new_tokens: 4, data: {folder}/first.jsonl, limit: 10}}
  - {{name: last, scorer: choice, data: {folder}/last.jsonl, limit: 10}}
controls:
  no-replay: {{method.replay: {{kind: none}}}}
""")


@pytest.fixture(scope="module")
def outcome(stream):
    return conductor.run(stream, Quiet())


def test_every_generation_is_measured_on_every_task(outcome):
    for line in outcome.lines:
        assert len(line.matrix.R) == 4
        assert all(cell is not None for row in line.matrix.R for cell in row)
    assert outcome.matrix.R[1][0] < outcome.matrix.R[0][0], "pretraining on the text must lower its bits per byte"


def test_controls_share_what_they_have_in_common(outcome):
    stream, control = (line.matrix.generations for line in outcome.lines)
    assert [a == b for a, b in zip(stream, control, strict=True)] == [True, True, False, False]
    assert len(outcome.built) == 5


def test_the_record_holds_data_receipt_and_cost(outcome):
    made = outcome.line.generations[2]
    assert [(o["stage"], o["rows"]) for o in made.data["origins"]] == [("first", 80), ("text", 27)]
    assert made.receipt["draws"][0]["asked"] == 27
    assert made.training["flops"] > 0 and made.training["steps"] == len(outcome.line.curves[made.key])
    assert made.adapter["rank"] == 4 and made.base == outcome.line.generations[1].key


def test_the_second_adapter_stage_goes_on_with_the_first_ones_adapter(outcome):
    second, third = outcome.line.generations[2:]
    assert third.base == second.base


def test_mlflow_holds_the_lineage(outcome, stream):
    from mlflow import MlflowClient

    tracking = default_tracking(outcome.plan.store)
    rows = {row["key"]: row for row in Ledger(tracking, stream.name).generations()}
    assert set(rows) == {g.key for line in outcome.lines for g in line.generations}
    last = outcome.line.generations[-1]
    client = MlflowClient(tracking)
    version = client.get_model_version(stream.name, rows[last.key]["version"])
    assert version.tags["clray.key"] == last.key and version.tags["clray.parent"] == last.parent
    run = client.get_run(rows[last.key]["run_id"])
    assert run.data.metrics["score/last/accuracy"] == outcome.matrix.R[3][2]
    assert {i.dataset.digest for i in run.inputs.dataset_inputs} >= {last.data["digest"][:36]}


def test_report_outcome_and_plan_lie_in_the_store_and_in_mlflow(outcome, stream):
    from mlflow import MlflowClient

    client = MlflowClient(default_tracking(outcome.plan.store))
    experiment = client.get_experiment_by_name(stream.name)
    top = client.search_runs([experiment.experiment_id], "tags.`clray.stream_digest` != ''")[0]
    assert {a.path for a in client.list_artifacts(top.info.run_id)} >= {"report.html", "outcome.json", "plan.json"}
    assert set(outcome.plan.store.list(f"reports/{stream.name}")) == {"report.html", "outcome.json", "plan.json"}


def test_the_same_stream_again_trains_nothing(outcome, stream):
    watch = Quiet()
    again = conductor.run(stream, watch)
    assert not again.built and again.matrix == outcome.matrix
    assert not watch.trained and not watch.measured


def test_an_edited_third_stage_is_a_branch(outcome, stream):
    edited = loading.loads(loading.to_yaml(stream), ["stages.last.optimiser.learning_rate=1e-3", "controls={}"])
    branch = conductor.run(edited, Quiet())
    assert branch.line.matrix.generations[:3] == outcome.matrix.generations[:3]
    assert branch.built == {branch.line.generations[3].key}
    assert outcome.plan.store.generation(outcome.matrix.generations[3]) is not None


def test_two_workers_have_the_losses_of_one(outcome, stream, tmp_path):
    single = outcome.line.curves[outcome.line.generations[1].key]
    pair = loading.loads(
        loading.to_yaml(stream),
        [
            "compute.workers=2",
            "compute.micro_batch=2",
            f"storage={tmp_path}/pair",
            "controls={}",
            "tasks=[]",
            "stages.text.teaches=[]",
        ],
    )
    both = conductor.run(pair, Quiet())
    assert both.line.matrix.generations == outcome.matrix.generations
    curve = both.line.curves[both.line.generations[1].key]
    assert [p["loss"] for p in curve] == pytest.approx([p["loss"] for p in single], rel=1e-4)


def test_the_model_of_a_generation_answers(outcome, stream):
    import clray

    model, tokenizer = clray.model(stream.storage, outcome.line.generations[-1])
    ids = tokenizer("last", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]


def test_the_plan_counts_what_is_there_and_what_is_not(outcome, stream):
    assert summarise(outcome.plan).to_build == []
    longer = loading.loads(loading.to_yaml(stream), ["stages.last.length={epochs: 3}", "controls={}"])
    summary = summarise(make_plan(longer))
    assert [row.state for row in summary.rows] == ["cached", "cached", "to build"]
    assert summary.rows[2].steps == -(-3 * summary.rows[2].rows // 8)


def test_more_workers_than_the_cluster_has_is_refused_with_both_numbers(stream):
    greedy = loading.loads(loading.to_yaml(stream), ["compute.workers=99", "batch.size=99", "seed=5"])
    with pytest.raises(ResourceError, match=r"asks for 100 CPUs .* the cluster has 6"):
        conductor.run(greedy, Quiet())


def test_a_batch_that_cannot_be_divided_among_the_workers_is_refused(stream):
    many = loading.loads(loading.to_yaml(stream), ["compute.workers={min: 1, max: 9}"])
    with pytest.raises(ResourceError, match="batch of 8 sequences cannot be divided among 9 workers"):
        make_plan(many)


def test_a_sequence_longer_than_the_model_is_refused(stream):
    with pytest.raises(ModelError, match="sequence_length 999 is more than the 128 positions"):
        make_plan(loading.loads(loading.to_yaml(stream), ["sequence_length=999"]))

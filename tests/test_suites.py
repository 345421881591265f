"""Suites of lm-evaluation-harness from the plan to the score, with a scoring actor's code in this process; and one run
through the whole of clray."""

import pytest
from command import run
from watchers import Quiet

from clray import conductor
from clray.evaluation import tasks
from clray.evaluation.actors import Scorer, _keep
from clray.history.archive import Archive
from clray.history.diff import diff
from clray.history.flips import flips
from clray.history.verify import _scores, verify
from clray.lineage.catalogue import entries
from clray.planner import make_plan
from clray.spec import loading
from suite_folder import write_folder
from texts import texts, write_lines

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is absent: pip install 'clray[suites]'")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("probed")
    write_folder(folder / "own")
    write_lines(folder / "text.jsonl", [{"text": text} for text in texts(60)])
    (folder / "stream.yaml").write_text(f"""
name: probed
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 8}}
optimiser: {{learning_rate: 3e-3}}
evaluation: {{shard_rows: 5}}
method: {{adapter: {{kind: sapt, targets: [q_proj, v_proj], rank: 2}}}}
stages:
  - name: say
    kind: instruct
    format: {{overlong: truncate}}
    data: {{source: {folder}/text.jsonl, fields: {{output: text}}, instruction: say something}}
tasks:
  - {{name: quiz, scorer: suite, suite: quiz, include: {folder}/own, limit: 11, group: general}}
  - {{name: reading, scorer: suite, suite: reading, include: {folder}/own, metric: bits_per_byte, group: knowledge}}
  - {{name: writing, scorer: suite, suite: writing, include: {folder}/own, metric: "exact_match:word"}}
gate: {{max_delta_general: 1.0}}
""")
    return folder


@pytest.fixture(scope="module")
def measured(place):
    """The plan, with generation 0 measured on each task in shards of 5."""
    plan = make_plan(loading.load(place / "stream.yaml", [f"storage={place}/alone"]))
    key = plan.lines[0].base.generation.key
    scorer = Scorer(plan.store.root, plan.stream.evaluation, "auto", False, 1)
    for spec in plan.tasks:
        count = tasks.prepare(spec, plan.store)
        results = [one for at in range(0, count, 5) for one in scorer.score(key, spec, at, min(at + 5, count))]
        _keep(plan.store, key, spec, results)
    return plan, key


def test_a_cell_has_the_suites_metrics_and_follows_from_its_outputs(measured):
    plan, key = measured
    cells = {spec.task.name: plan.store.score(key, spec.digest) for spec in plan.tasks}
    assert [(name, cell["score"], cell["metrics"]["n"]) for name, cell in cells.items()] == [
        ("quiz", "acc", 11),
        ("reading", "bits_per_byte", 12),
        ("writing", "exact_match:word", 12),
    ]
    assert set(cells["quiz"]["metrics"]) == {"acc", "acc_norm", "exact_match", "acc_mutual_info", "n"}
    assert not list(_scores(plan.store, plan.lines[0].base.generation))
    [entry] = entries(plan.store)
    assert {name: score for name, _, score in entry.scores.values()}["quiz"] == cells["quiz"]["metrics"]["acc"]


def test_the_outputs_hold_what_each_document_was_answered(measured):
    plan, key = measured
    spec = plan.tasks[0]
    rows = plan.store.read_json(f"outputs/{key}/{spec.digest}.json")
    assert len(rows) == 11 and all(len(row["responses"]) == 8 for row in rows)  # four options, with and without prompt
    assert all(row["values"]["acc"][0] == (row["gold"] == row["prediction"]) for row in rows)
    turned = [{**row, "values": {"acc": [1 - row["values"]["acc"][0], 1.0]}} for row in rows]
    found = flips(plan.store, plan.lines[0].base.tokenizer_digest, spec.digest, "suite", rows, turned, most=1)
    assert found["right"] + found["wrong"] == 11
    assert all(each["prompt"].endswith("Answer:") for each in found["examples"])


def test_another_metric_asks_nothing_again_and_other_shots_do(measured, place):
    plan, _ = measured
    digests = [spec.digest for spec in plan.tasks]

    def changed(override):
        again = make_plan(loading.load(place / "stream.yaml", [f"storage={place}/alone", override])).tasks
        return [spec.digest != old for spec, old in zip(again, digests, strict=True)]

    assert changed("tasks.quiz.metric=acc_norm") == [False, False, False]
    assert changed("tasks.quiz.num_fewshot=1") == [True, False, False]
    assert changed("sequence_length=32") == [False, False, False]  # a suite's windows are the model's own


def test_a_suite_takes_its_context_from_the_model_or_the_task(measured, place):
    plan, _ = measured
    assert {spec.context for spec in plan.tasks} == {128}
    [first, *_] = make_plan(loading.load(place / "stream.yaml", ["tasks.quiz.context=40"])).tasks
    assert first.context == 40 and first.digest != plan.tasks[0].digest


def test_an_unknown_suite_ends_the_plan_with_exit_code_2(place, capsys):
    code, _, said = run(capsys, "plan", place / "stream.yaml", "tasks.quiz.suite=quizz")
    assert code == 2 and "task 'quiz': suite 'quizz' is not in include" in said


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_measures_every_generation_and_compares_them(place, ray_cluster):
    watch = Quiet()
    outcome = conductor.run(loading.load(place / "stream.yaml"), watch)
    matrix = outcome.matrix
    assert matrix.metrics == {"quiz": "acc", "reading": "bits_per_byte", "writing": "exact_match:word"}
    assert matrix.lower_is_better == [False, True, False]
    assert [len(row) for row in matrix.R] == [3, 3] and all(cell >= 0 for row in matrix.R for cell in row)
    assert [task for _, task, *_ in watch.measured].count(
        "quiz"
    ) == 2 * 3  # 11 documents in shards of 5, on two generations
    assert matrix.columns_of == {"general": [0, 2], "knowledge": [1]}

    archive, (base, made) = Archive(outcome.plan.store.root), outcome.line.generations
    rows = outcome.plan.store.read_json(f"outputs/{made.key}/{outcome.plan.tasks[0].digest}.json")
    assert all(len(row["attention"]) == 1 for row in rows)
    assert not verify(archive, made.key).problems
    changes = {each.task: each for each in diff(archive, base.key, made.key).tasks}
    assert changes["reading"].difference.after == pytest.approx(matrix.R[1][1]) and not changes["reading"].flips
    turned = changes["quiz"].flips["right"] - changes["quiz"].flips["wrong"]
    assert turned == round(11 * changes["quiz"].difference.change)

    again = Quiet()
    conductor.run(loading.load(place / "stream.yaml", ["tasks.quiz.metric=acc_norm"]), again)
    assert not again.measured

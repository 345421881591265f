"""A suite of lm-evaluation-harness as a probe, through the whole of clray: measured once, compared, verified."""

import pytest

from clray import cli, conductor
from clray.history.archive import Archive
from clray.history.diff import diff
from clray.history.verify import verify
from clray.planner import make_plan
from clray.spec import loading
from suite_folder import write_folder
from texts import texts, write_lines

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is absent: pip install 'clray[suites]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Silent:
    """A watcher that remembers what was measured."""

    def __init__(self):
        self.measured = []

    def say(self, text):
        pass

    def training(self, line, stage, progress):
        pass

    def measuring(self, stage, task, done, of):
        self.measured.append(task)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, ray_cluster):
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
def run(place):
    watch = Silent()
    return conductor.run(loading.load(place / "stream.yaml"), watch), watch


def test_every_generation_is_measured_in_shards(run):
    outcome, watch = run
    matrix = outcome.matrix
    assert matrix.metrics == {"quiz": "acc", "reading": "bits_per_byte", "writing": "exact_match:word"}
    assert matrix.lower_is_better == [False, True, False]
    assert [len(row) for row in matrix.R] == [3, 3] and all(cell >= 0 for row in matrix.R for cell in row)
    assert watch.measured.count("quiz") == 2 * 3  # 11 documents in shards of 5, on two generations
    assert matrix.columns_of == {"general": [0, 2], "knowledge": [1]}


def test_the_outputs_hold_what_each_document_was_answered(run):
    outcome, _ = run
    store, key, spec = outcome.plan.store, outcome.line.generations[1].key, outcome.plan.tasks[0]
    rows = store.read_json(f"outputs/{key}/{spec.digest}.json")
    assert len(rows) == 11 and all(len(row["responses"]) == 8 for row in rows)
    assert sum(row["values"]["acc"][0] for row in rows) / 11 == pytest.approx(outcome.matrix.R[1][0])
    assert all(row["values"]["acc"][0] == (row["gold"] == row["prediction"]) for row in rows)
    assert all(len(row["attention"]) == 1 for row in rows)


def test_cells_are_kept_and_another_metric_asks_nothing_again(run, place):
    watch = Silent()
    found = conductor.run(loading.load(place / "stream.yaml", ["tasks.quiz.metric=acc_norm"]), watch)
    assert not watch.measured and found.matrix.metrics["quiz"] == "acc_norm"
    digests = {spec.task.name: spec.digest for spec in run[0].plan.tasks}
    more = make_plan(loading.load(place / "stream.yaml", ["tasks.quiz.num_fewshot=1"])).tasks
    assert [spec.digest != digests[spec.task.name] for spec in more] == [True, False, False]


def test_two_generations_are_compared_and_verified(run):
    outcome, _ = run
    archive, (base, made) = Archive(outcome.plan.store.root), outcome.line.generations
    assert not verify(archive, made.key).problems
    changes = {each.task: each for each in diff(archive, base.key, made.key).tasks}
    assert changes["reading"].difference.metric == "bits_per_byte" and not changes["reading"].flips
    assert changes["reading"].difference.after == pytest.approx(outcome.matrix.R[1][1])
    quiz = changes["quiz"]
    assert quiz.difference.after == pytest.approx(outcome.matrix.R[1][0])
    turned = quiz.flips["right"] - quiz.flips["wrong"]
    assert turned == round(11 * quiz.difference.change)
    assert all(each["prompt"].endswith("Answer:") for each in quiz.flips["examples"])


def test_an_unknown_suite_ends_the_plan_with_exit_code_2(place, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(place / "stream.yaml"), "tasks.quiz.suite=quizz"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "task 'quiz': suite 'quizz' is not in include" in said

"""Streams load strictly: every mistake is one message with file, line, value and mend."""

import pytest

from clray.errors import SpecError
from clray.spec import loading
from clray.spec.template import write_template

MINIMAL = """
name: a
optimiser: {learning_rate: 3e-4}
method: {adapter: {kind: lora, rank: 4}, replay: {kind: random, share: 0.1}}
stages: [{name: x, kind: pretrain, data: builtin:docs}]
controls: {plain: {method.replay: {kind: none}, stages.x.length.epochs: 2}}
"""


def complaint(text: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(SpecError) as found:
        loading.loads(text, overrides, name="s.yaml")
    return str(found.value)


def test_scientific_notation_is_a_number_and_a_single_source_a_list():
    stream = loading.loads(MINIMAL)
    assert stream.optimiser.learning_rate == 3e-4
    assert stream.stages[0].data[0].source == "builtin:docs"


def test_a_dumped_stream_loads_to_an_equal_one():
    stream = loading.loads(MINIMAL)
    assert loading.loads(loading.to_yaml(stream)) == stream


def test_overrides_reach_nested_keys_and_named_stages():
    stream = loading.loads(MINIMAL, ["method.replay.share=0.5", "stages.x.sequence_length=64", "seed=7"])
    assert (stream.method.replay.share, stream.stages[0].sequence_length, stream.seed) == (0.5, 64, 7)


def test_a_control_is_the_stream_with_other_settings():
    control = loading.variant(loading.loads(MINIMAL), "plain")
    assert control.method.replay.kind == "none"
    assert control.stages[0].length.epochs == 2
    assert not control.controls


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optimizer: {}", "s.yaml:7: unknown key 'optimizer'; did you mean 'optimiser'?"),
        ("seed: many", "s.yaml:7: 'seed': input should be a valid integer; found 'many'"),
        ("trust: yes\nseed: 1\nseed: 2", "s.yaml:9: key 'seed' is given twice"),
        ("batch: {size: 0}", "s.yaml:7: 'batch.size': input should be greater than or equal to 1; found 0"),
        (
            "tasks: [{name: t, scorer: choice, metric: rouge_l, data: d}]",
            "metric 'rouge_l' does not fit scorer 'choice'",
        ),
        ("sequence_length: [", "s.yaml:"),
    ],
)
def test_each_mistake_names_line_value_and_mend(change, expected):
    assert expected in complaint(MINIMAL + change + "\n")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.replay.share=2", "'method.replay.share': input should be less than 1; found 2"),
        ("method.adapter.rnk=3", "unknown key 'method.adapter.rnk'; did you mean 'rank'?"),
        ("method.replay.kind=randm", "unknown kind 'randm'; did you mean 'random'?"),
        ("method.adapter={kind: olora, rnk: 3}", "unknown key 'method.adapter.rnk'; did you mean 'rank'?"),
        ("method.schedule={warmup: 2}", "'method.schedule.warmup': input should be less than 1; found 2"),
        ("method.schedule.kind=infinit", "unknown kind 'infinit'; did you mean 'infinite'?"),
        (
            "method.schedule={kind: infinite, constant: 2}",
            "'method.schedule.constant': input should be less than or equal to 1; found 2",
        ),
        ("method.schedule={kind: infinite, constant: 0.05}", "final 0.1 is more than constant 0.05"),
        ("stages.y.kind=pretrain", "no item 'y'; there are x"),
        ("compute.workers={min: 3, max: 2}", "'compute.workers': min 3 is more than max 2"),
        ("compute.workers=0", "'compute.workers.min': input should be greater than or equal to 1; found 0"),
        ("compute={compile: true, zero_stage: 3}", "compile goes with zero_stage 0 to 2"),
        ("seed", "write key=value"),
        ("controls.other={seed: x}", "control 'other' of stream 'a': 'seed': input should be a valid integer"),
        ("stages.x.teaches=[t]", "teaches 't', which is no task of the stream"),
        ("stages.x.length={epochs: 1, steps: 2}", "exactly one of 'epochs', 'steps' and 'tokens'"),
    ],
)
def test_overrides_are_checked_like_the_file(override, expected):
    assert expected in complaint(MINIMAL, (override,))


def test_a_number_of_workers_is_a_group_that_stays_so_large():
    stream = loading.loads(MINIMAL, ["compute.workers=4"])
    assert (stream.compute.workers.min, stream.compute.workers.max) == (4, 4)
    assert loading.loads(loading.to_yaml(stream)) == stream


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(SpecError, match=r"none\.yaml: cannot be read"):
        loading.load(tmp_path / "none.yaml")


def test_the_template_is_a_valid_stream_and_is_never_overwritten(tmp_path):
    path = tmp_path / "stream.yaml"
    write_template(path)
    assert loading.load(path).stages
    with pytest.raises(Exception, match="is there already"):
        write_template(path)


def test_the_schema_describes_every_field():
    schema = loading.schema()
    assert schema["properties"]["stages"]["type"] == "array"
    assert schema["additionalProperties"] is False

"""The score matrix as a value: JSON form, columns of one unit, table, refusals."""

from __future__ import annotations

import dataclasses
import json

import pytest

from clray.evaluation.matrix import ScoreMatrix

VALUES = {
    "tasks": ["dbpedia", "law", "probe"],
    "metrics": {"dbpedia": "exact_match", "law": "bits_per_byte", "probe": "exact_match"},
    "learned_at": {"dbpedia": 1, "law": 2, "probe": None},
    "generations": ["k0", "k1", "k2"],
    "stages": ["base", "dbpedia", "law"],
    "R": [[0.05, 2.0, 0.5], [0.9, None, 0.4], [0.8, 1.25, 0.45]],
}


def test_the_json_form_comes_back_unchanged():
    matrix = ScoreMatrix.from_dict(json.loads(json.dumps(VALUES)))
    assert matrix.to_dict() == VALUES
    assert ScoreMatrix.from_dict(matrix.to_dict()) == matrix


def test_columns_of_one_unit():
    matrix = ScoreMatrix.from_dict(VALUES)
    assert matrix.units == ["exact_match", "bits_per_byte"]
    part = matrix.of("exact_match")
    assert part.tasks == ("dbpedia", "probe") and part.learned_rows == [1, None]
    assert part.R == ((0.05, 0.5), (0.9, 0.4), (0.8, 0.45))
    assert matrix.lower_is_better == [False, True, False]


def test_the_table_marks_the_diagonal_and_the_gaps():
    assert ScoreMatrix.from_dict(VALUES).table(digits=2) == [
        ["stage", "dbpedia (exact_match)", "law (bits_per_byte)", "probe (exact_match)"],
        ["base", "0.05", "2.00", "0.50"],
        ["dbpedia", "0.90*", "–", "0.40"],
        ["law", "0.80", "1.25*", "0.45"],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": []}, "the base model at least"),
        ({"stages": ["base"]}, "3 rows, 3 generations and 1 stages"),
        ({"R": [[0.1, 0.2, 0.3], [0.1], [0.1, 0.2, 0.3]]}, "row 'dbpedia' has 1 scores for 3 tasks"),
        ({"metrics": {"dbpedia": "exact_match"}}, "'metrics' names"),
        ({"learned_at": {"dbpedia": 0, "law": 2, "probe": None}}, "'dbpedia' is learned at row 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ScoreMatrix.from_dict({**VALUES, **change})


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ScoreMatrix.from_dict(VALUES).tasks = ()

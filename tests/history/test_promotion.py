"""Aliases: who moved them where, when and why, and the way back."""

import json

import pytest
from mlflow import MlflowClient

from clray.lineage.ledger import default_tracking
from clray.lineage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_there_and_back(copied, keys, clray):
    def promote(key, why):
        return json.loads(
            clray("promote", key, "--to", "champion", "--why", why, "--by", "ann", "--storage", copied, "--json")[1]
        )

    client = MlflowClient(default_tracking(Store(copied)))

    def champion():
        return client.get_model_version_by_alias("told", "champion").tags["clray.key"]

    first = promote(keys[1][:8], "reads well")
    assert first["before"] is None and first["stream"] == "told" and champion() == keys[1]
    assert promote("newest", "answers well")["before"] == keys[1] and champion() == keys[3]
    promote(keys[2], "smaller")
    code, shown, _ = clray("show", "champion", "--storage", copied)
    assert code == 0 and keys[2] in shown and "promote to champion by ann, 20" in shown and "smaller" in shown
    assert "[champion]" in clray("log", "--storage", copied)[1]
    code, shown, _ = clray("rollback", "champion", "--storage", copied, "--why", "worse at news")
    assert code == 0 and champion() == keys[3] and shown.startswith(f"champion of told: {keys[3][:10]} (version")
    assert clray("rollback", "champion", "--storage", copied)[0] == 0 and champion() == keys[1]
    code, _, said = clray("rollback", "champion", "--storage", copied)
    assert code == 2 and "'champion' of 'told' stood nowhere before" in said and champion() == keys[1]
    promote(keys[3], "again")
    assert clray("rollback", "champion", "--storage", copied)[0] == 0 and champion() == keys[1]
    tags = client.get_registered_model("told").tags
    moves = [json.loads(tags[f"clray.alias.champion.{number}"]) for number in range(1, 8)]
    assert [(move["action"], move["key"]) for move in moves] == [
        ("promote", keys[1]), ("promote", keys[3]), ("promote", keys[2]), ("rollback", keys[3]),
        ("rollback", keys[1]), ("promote", keys[3]), ("rollback", keys[1]),
    ]  # fmt: skip
    assert moves[3]["why"] == "worse at news" and moves[0]["who"] == "ann"


def test_an_alias_that_was_moved_by_hand_is_the_way_back(copied, keys, clray):
    client = MlflowClient(default_tracking(Store(copied)))
    version = json.loads(clray("show", keys[1], "--storage", copied, "--json")[1])["registered"][0]["version"]
    client.set_registered_model_alias("told", "serving", version)
    assert clray("promote", keys[3], "--to", "serving", "--why", "new", "--storage", copied)[0] == 0
    assert clray("rollback", "serving", "--storage", copied)[0] == 0
    assert client.get_model_version_by_alias("told", "serving").tags["clray.key"] == keys[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["newest", "--to", "newest", "--why", "x"], "'newest' is moved by clray itself"),
        (["newest", "--to", "latest", "--why", "x"], "MLflow keeps 'latest'"),
        (["newest", "--to", "v2", "--why", "x"], "MLflow keeps 'latest' and v1, v2"),
        (["newest", "--to", "a b", "--why", "x"], "alias 'a b': it takes a letter"),
        (["newest", "--to", "champion", "--why", " "], "--why is empty"),
        (
            ["newest", "--to", "champion", "--why", "x", "--stream", "other"],
            "is not registered in MLflow in stream 'other'",
        ),
        (["newest", "--to", "champion", "--why", "x", "--tracking", "none"], "no generation 'newest'"),
    ],
)
def test_what_is_refused(storage, clray, arguments, expected):
    code, out, said = clray("promote", *arguments, "--storage", storage)
    assert code == 2 and expected in said and not out


def test_a_generation_that_has_the_alias_already(copied, keys, clray):
    assert clray("promote", keys[1], "--to", "champion", "--why", "x", "--storage", copied)[0] == 0
    code, _, said = clray("promote", keys[1], "--to", "champion", "--why", "x", "--storage", copied)
    assert code == 2 and "is 'champion' of 'told' already" in said
    code, _, said = clray("rollback", "runner-up", "--storage", copied)
    assert code == 2 and "no generation has the alias 'runner-up'; aliases are champion, newest" in said

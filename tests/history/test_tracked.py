"""All commands over the lineage against a real MLflow server, over SQLite and over PostgreSQL."""

import json

import pytest
from mlflow import MlflowClient
from watchers import Quiet

from clray import conductor
from clray.spec import loading

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def tracked(stream_file, copied, tracking_server, clray):
    """Runs a command over the copied storage, whose generations are recorded at the server; JSON of what it prints."""
    stream = loading.load(stream_file, [f"storage={copied}", f"tracking={tracking_server}", "name=served"])
    outcome = conductor.run(stream, Quiet())
    assert not outcome.built

    def run(*arguments):
        code, out, said = clray(*arguments, "--storage", copied, "--tracking", tracking_server, "--json")
        assert code == 0, said
        return json.loads(out)

    return run


def test_every_command_reads_and_writes_at_the_server(tracked, tracking_server, keys, tiny_model, clray, copied):
    client = MlflowClient(tracking_server, tracking_server)
    assert [row["aliases"] for row in tracked("log")["generations"] if row["key"] == keys[3]] == [["newest"]]
    shown = tracked("show", "newest")
    assert shown["key"] == keys[3] and shown["registered"][0]["stream"] == "served"
    assert tracked("diff", keys[2], "newest")["after"] == keys[3]
    assert tracked("blame", "first", "newest")["steps"]
    assert tracked("bisect", "first", "newest", "--below", "-1")["broke"] is None
    assert tracked("promote", keys[2], "--to", "champion", "--why", "good")["key"] == keys[2]
    assert tracked("promote", "newest", "--to", "champion", "--why", "better")["before"] == keys[2]
    assert tracked("rollback", "champion")["key"] == keys[2]
    assert client.get_model_version_by_alias("served", "champion").tags["clray.key"] == keys[2]
    assert tracked("show", "champion")["moves"][-1]["action"] == "rollback"
    kept = {item["key"] for item in tracked("gc")["kept"]}
    assert keys[2] in kept and not tracked("verify")["problems"]
    made_again = tracked("reproduce", "champion")
    assert made_again["same"] and made_again["key"] == keys[2]
    adopted = tracked("adopt", tiny_model, "--name", "own", "--stream", "elsewhere")
    assert client.search_model_versions("name = 'elsewhere'")[0].tags["clray.key"] == adopted["key"]
    assert tracked("deliver") == {"delivered": 0, "waiting": 0, "reasons": [], "away": False}

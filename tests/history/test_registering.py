"""Commands that write to a real MLflow server which is killed before, or in the middle."""

import json
import shutil
import signal

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from clray.errors import StorageError, TrackingError, UserError
from clray.history import adopt as adopting
from clray.history.archive import Archive
from clray.history.promotion import promote, rollback
from clray.history.registering import tracked_at
from clray.lineage import notes
from clray.lineage.registry import Registry
from clray.lineage.spool import Spool
from clray.lineage.store import Store
from servers import mlflow_server


@pytest.fixture
def server(tmp_path):
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") as server:
        yield server


@pytest.fixture
def tuned(tiny_model, tmp_path):
    """The tiny model with other weights."""
    shutil.copytree(tiny_model, tmp_path / "tuned")
    file = tmp_path / "tuned" / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(file).items()}, file, {"format": "pt"})
    return tmp_path / "tuned"


def killing(server, call):
    """`call`, after which the server is dead."""

    def called(*arguments, **named):
        found = call(*arguments, **named)
        server.stop(signal.SIGKILL)
        return found

    return called


def test_what_is_adopted_while_the_server_dies_is_delivered_once(server, tiny_model, tuned, tmp_path, clray):
    store = Store(str(tmp_path / "store"))
    at = ["--storage", store.root, "--tracking", server.uri]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adopting, "commit_base", killing(server, adopting.commit_base))
        code, shown, said = clray("adopt", tiny_model, *at)
    assert code == 0 and shown.endswith("generation 0, root\n") and "3 records wait" in said
    assert [letter.call for _, letter in Spool(store).letters("adopted")] == ["open", "record", "finish"]
    [root] = store.generations()

    code, shown, said = clray("adopt", tuned, "--parent", root.key, *at)
    assert code == 2 and not shown and "Start the server" in said
    for command in (["promote", root.key, "--to", "champion", "--why", "first"], ["rollback", "champion"]):
        code, shown, said = clray(*command, *at)
        assert code == 2 and not shown and "cannot be used" in said
    assert [made.key for made in store.generations()] == [root.key] and len(Spool(store).names("adopted")) == 3

    server.start()
    code, shown, said = clray("deliver", *at, "--json")
    assert code == 0, said
    assert json.loads(shown) == {"delivered": 3, "waiting": 0, "reasons": [], "away": False}
    child = json.loads(clray("adopt", tuned, "--parent", root.key, "--storage", store.root, "--json")[1])["key"]
    assert json.loads(clray("adopt", tuned, "--parent", root.key, "--storage", store.root, "--json")[1])["key"] == child
    client = MlflowClient(server.uri, server.uri)
    versions = sorted(client.search_model_versions("name = 'adopted'"), key=lambda found: int(found.version))
    assert [(found.version, found.tags["clray.key"]) for found in versions] == [("1", root.key), ("2", child)]
    assert versions[1].tags["clray.parent_version"] == "1"
    runs = client.search_runs([client.get_experiment_by_name("adopted").experiment_id])
    assert len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}


def test_an_alias_whose_move_was_cut_short_stays_where_it_was(server, tiny_model, tuned, tmp_path, monkeypatch):
    """The server is killed after the move is written down, before the alias is set. The same command completes it."""
    storage = str(tmp_path / "store")
    root = adopting.adopt(storage, str(tiny_model), tracking=server.uri)
    child = adopting.adopt(storage, str(tuned), parent=root.key, tracking=server.uri)
    client = MlflowClient(server.uri, server.uri)

    def champion():
        return client.get_model_version_by_alias("adopted", "champion").tags["clray.key"]

    def cut_short(command, *arguments):
        archive, real = Archive(storage), MlflowClient.set_registered_model_tag
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, "set_registered_model_tag", killing(server, real))
            with pytest.raises(TrackingError, match="cannot be used"):
                command(archive, *arguments)
        server.start()

    promote(Archive(storage), root.key, "champion", "first", "ann")
    cut_short(promote, child.key, "champion", "better", "ann")
    assert champion() == root.key
    assert promote(Archive(storage), child.key, "champion", "better", "ann").before == root.key
    assert champion() == child.key
    cut_short(rollback, "champion", "worse", "ann")
    assert champion() == child.key
    rollback(Archive(storage), "champion", "worse", "ann")
    assert champion() == root.key
    actions = [(move.action, move.key) for move in Registry(server.uri).history("adopted", "champion")]
    cut = [("promote", child.key), ("found", root.key)]
    assert actions == [("promote", root.key), *cut, ("promote", child.key), *[("rollback", root.key)] * 2]


def test_adopted_models_are_recorded_where_the_streams_of_the_storage_are(tmp_path):
    store = Store(str(tmp_path))
    assert tracked_at(store, None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracked_at(store, "http://other:5000") == "http://other:5000" and tracked_at(store, "none") is None
    notes.keep(store, "weekly", "a: 1", "http://host:5000")
    assert tracked_at(store, None) == "http://host:5000"
    notes.keep(store, "daily", "a: 2", None)
    with pytest.raises(UserError, match=r"tracked at .*the storage's own file.*say which with --tracking URI"):
        tracked_at(store, None)


def test_credentials_that_were_not_kept_are_asked_for(tmp_path):
    store = Store(str(tmp_path))
    notes.keep(store, "weekly", "a: 1", "http://***@host:5000")
    with pytest.raises(StorageError, match=r"whose credentials are not kept\. Give --tracking URI"):
        tracked_at(store, None)

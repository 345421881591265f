"""Sources become record sets on a real Ray: checked, deduplicated, addressed by content."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clray.data import mixture, records
from clray.data.batches import PackedShards
from clray.data.manifest import Manifest, read_parts
from clray.errors import DataError
from clray.lineage.store import Store
from clray.replay.draw import draw
from clray.spec.format import Format
from clray.spec.source import Source
from texts import write_lines

pytestmark = pytest.mark.ray


@pytest.fixture
def make(tiny_model, tmp_path, ray_cluster):
    store = Store(str(tmp_path / "store"))

    def spec(*sources, kind="pretrain", limit=64, **form):
        return records.RecordSpec(
            kind=kind,
            sources=records.open_sources([Source(**s) for s in sources], store),
            tokenizer=str(tiny_model),
            tokenizer_digest="t",
            form=Format(**form),
            limit=limit,
        )

    return store, spec


def test_duplicates_stand_once_whatever_the_layout(make, tmp_path):
    store, spec = make
    one = write_lines(tmp_path / "all.jsonl", [{"text": "red"}, {"text": "sun moon"}, {"text": "red"}])
    write_lines(tmp_path / "p1.jsonl", [{"text": "sun moon"}])
    write_lines(tmp_path / "p2.jsonl", [{"text": "red"}])
    whole, parts = (
        records.prepare(spec({"source": one}), store),
        records.prepare(spec({"source": f"{tmp_path}/p*.jsonl"}), store),
    )
    assert whole.rows == parts.rows == 2
    assert [p.sha256 for p in whole.parts] == [p.sha256 for p in parts.parts]
    assert whole.provenance["duplicates"] == 1


def test_a_large_set_has_parts_whose_number_stands_in_its_address(make, tmp_path, monkeypatch):
    store, spec = make
    one = write_lines(tmp_path / "all.jsonl", [{"text": f"sun {n}"} for n in range(60)])
    small, whole = spec({"source": one}).digest, records.prepare(spec({"source": one}), store)
    monkeypatch.setattr(records, "BYTES_PER_PART", 400)
    parts = records.prepare(spec({"source": one}), store)
    assert whole.digest == small != parts.digest and len(parts.parts) > 1
    found = [read_parts(store, manifest)["digest"].to_pylist() for manifest in (whole, parts)]
    assert sorted(found[1]) == found[0] != found[1]
    monkeypatch.setattr(mixture, "TOKENS_PER_PART", 100)
    packed = mixture.MixtureSpec(stage="own", own=parts, past=(), draws=(), sequence_length=64)
    assert mixture.prepare(packed, store).tokens == parts.tokens == whole.tokens
    assert len(mixture.prepare(packed, store).parts) > 1


def test_lines_are_those_of_the_file_whatever_stands_in_them(make, tmp_path):
    """A byte-order mark, a line separator that is no new line, CRLF, an empty line, and no new line at the end."""
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"text": "a\u2028b"}\r\n\n{"text": "c"}'.encode())
    found = records.read(make[1]({"source": f"{tmp_path}/a.jsonl"}).sources, "pretrain")
    assert found == [({"text": "a\u2028b"}, f"{tmp_path}/a.jsonl:1"), ({"text": "c"}, f"{tmp_path}/a.jsonl:3")]


def test_text_parquet_mapped_fields_and_limits_are_read(make, tmp_path):
    store, spec = make
    (tmp_path / "a.txt").write_text("one two three")
    pq.write_table(pa.table({"body": ["sun", "moon", "star"]}), tmp_path / "b.parquet")
    assert records.prepare(spec({"source": f"{tmp_path}/a.txt"}), store).rows == 1
    mapped = {"source": f"{tmp_path}/b.parquet", "fields": {"text": "body"}, "limit": 2}
    assert records.prepare(spec(mapped), store).rows == 2


def test_a_prepared_set_is_taken_from_the_store(make, tmp_path):
    store, spec = make
    made = spec({"source": write_lines(tmp_path / "a.jsonl", [{"text": "red"}])})
    first = records.prepare(made, store)
    (tmp_path / "store" / first.folder / first.parts[0].name).touch()
    assert records.prepare(made, store) == first == Manifest.load(store, first.folder)


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        ('{"text": "a"}\n\n{"text"', "pretrain", r"bad\.jsonl:3: not valid JSON"),
        ('{"text": "a"}\n{"txt": "b"}', "pretrain", r"bad\.jsonl:2: the record has no 'text'; its fields are txt"),
        ('{"text": "  "}', "pretrain", r"bad\.jsonl:1: 'text' is empty"),
        ("[1]", "pretrain", r"bad\.jsonl:1: a record is a JSON object, found list"),
        ("", "pretrain", r"bad\.jsonl: holds no record"),
        ('{"instruction": "a"}', "instruct", r"bad\.jsonl:1: the record has no 'output'"),
        ('{"messages": []}', "instruct", r"bad\.jsonl:1: 'messages' must be a list"),
        (
            '{"instruction": "' + "red " * 99 + '", "output": "sun"}',
            "instruct",
            r"bad\.jsonl:1: the prompt .* leaves no room",
        ),
    ],
)
def test_bad_input_names_file_and_line(make, tmp_path, content, kind, expected):
    store, spec = make
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(DataError, match=expected):
        records.prepare(spec({"source": f"{tmp_path}/bad.jsonl"}, kind=kind), store)
    assert not store.list("records")


def test_a_file_that_is_not_utf8_names_its_line(make, tmp_path):
    store, spec = make
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n' + gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"bad\.jsonl:2: not UTF-8 text"):
        records.prepare(spec({"source": f"{tmp_path}/bad.jsonl"}), store)


def test_a_missing_file_is_refused_before_ray(make, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        make[1]({"source": f"{tmp_path}/none.jsonl"})


def test_a_mixture_holds_own_and_drawn_rows_and_counts_them(make, tmp_path):
    store, spec = make
    own = records.prepare(
        spec({"source": write_lines(tmp_path / "own.jsonl", [{"text": f"one {i}"} for i in range(30)])}), store
    )
    old = records.prepare(
        spec({"source": write_lines(tmp_path / "old.jsonl", [{"text": "sun " * (i + 9)} for i in range(80)])}), store
    )
    own_index, old_index = mixture.index_of(store, "own", own), mixture.index_of(store, "old", old)
    draws = tuple(draw({"kind": "random", "rows_per_past_task": 7}, own_index, [old_index], seed=0))
    packed = mixture.prepare(
        mixture.MixtureSpec(stage="own", own=own, past=(old,), draws=draws, sequence_length=64), store
    )
    origins = packed.provenance["origins"]
    assert [(o["stage"], o["rows"]) for o in origins] == [("own", 30), ("old", 7)]
    assert packed.targets == sum(o["targets"] for o in origins)
    drawn = read_parts(store, old)["num_tokens"].to_numpy()[draws[0].rows]
    assert origins[1]["tokens"] == int(drawn.sum())
    shards = PackedShards(store, packed)
    assert sum(len(shards[i].ids) for i in range(len(shards))) == packed.tokens
    assert all(s.segments.sum() == len(s.ids) for s in (shards[i] for i in range(len(shards))))


def test_a_hugging_face_data_set_is_read(make, tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="datasets is an extra: pip install 'clray[hub]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    store, spec = make
    (tmp_path / "hub").mkdir()
    write_lines(tmp_path / "hub" / "train.jsonl", [{"text": "red"}, {"text": "sun"}])
    manifest = records.prepare(spec({"source": f"hf:{tmp_path}/hub", "split": "train"}), store)
    assert manifest.rows == 2 and manifest.provenance["sources"][0]["fingerprint"]
    with pytest.raises(DataError, match="cannot be loaded"):
        spec({"source": f"hf:{tmp_path}/hub", "split": "none"})

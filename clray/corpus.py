"""`clray mine`: the supplemental set of one round alone, for whoever trains elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from clray.errors import SpecError
from clray.evaluation.actors import ScoringPool
from clray.evolving import mining
from clray.evolving.round import round_spec
from clray.lineage.store import Store
from clray.models.loading import tokenizer_digest
from clray.ray_session import connect
from clray.spec import loading
from clray.spec.evolve import Round
from clray.spec.stream import Stream

NAME = "mine"


def corpus_stream(storage: str, questions: Sequence[str], knowledge: Sequence[str], settings: Iterable[str]) -> Stream:
    """A stream of one evolve stage over the storage.

    `settings` are key=value: of the stage where they begin with `evolve.`, else of the stream (evaluation, format,
    sequence_length, seed). SpecError where one does not fit.
    """
    evolve = {"questions": list(questions), "knowledge": {"sources": list(knowledge)}}
    stream = {"name": NAME, "storage": storage, "stages": [{"name": NAME, "kind": "evolve", "evolve": evolve}]}
    inside = (f"stages.{NAME}.{one}" if one.startswith("evolve.") else one for one in settings)
    return loading.loads(yaml.safe_dump(stream), inside, name=NAME)


def mine_corpus(
    stream: Stream, generation: str, out: Path, say: Callable[[str], None], watch: mining.Watch
) -> dict[str, Any]:
    """The manifest of the set mined from the mistakes of the generation of that key; the set lies in `out` then.

    `stream` is one of `corpus_stream`. The folder holds a Parquet file for each kind of row (text, or instruction,
    input and output) and manifest.json. SpecError where the folder is there and holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise SpecError(f"--out {out}: the folder holds something already; give an empty or a new one")
    store, (stage,) = Store(stream.storage), stream.sequence
    assert isinstance(stage.evolve, Round)
    mark = tokenizer_digest(store, generation)
    form = stage.format if "format" in stage.model_fields_set else stream.format
    tokenizer = str(store.fetch(f"tokenizers/{mark}"))
    spec = round_spec(stage.evolve, generation, form, stream.sequence_length, tokenizer, mark, stream, store)
    connect(stream)
    mining.ready(spec, store)
    pool = ScoringPool(stream)
    try:
        manifest = mining.mine(spec, store, pool, say, watch)
    finally:
        pool.release()
    shutil.copytree(store.fetch(spec.folder), out, dirs_exist_ok=True)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True))
    return manifest

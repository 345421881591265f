"""Aliases of generations: who moved them where, when and why, and the way back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clray.errors import UserError
from clray.history.archive import Archive
from clray.lineage import collected, verdicts
from clray.lineage.clock import now
from clray.lineage.generation import Generation
from clray.lineage.ledger import NEWEST
from clray.lineage.registry import Move, Registry

PROMOTE, ROLLBACK, FOUND = "promote", "rollback", "found"


@dataclass(frozen=True, kw_only=True)
class Moved:
    """An alias that was moved: of which stream, from which key (None: it is new), and the move."""

    stream: str
    alias: str
    before: str | None
    move: Move

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"stream": self.stream, "alias": self.alias, "before": self.before, **asdict(self.move)}


def promote(
    archive: Archive, wanted: str, alias: str, why: str, who: str, stream: str | None = None, force: bool = False
) -> Moved:
    """Moves the alias to the generation, and writes down who, when and why.

    UserError for an alias that is not a person's to move, for no reason given, for a generation that has it already, is
    not registered, or has no weights any more, and without `force` for one that a gate rejects.
    """
    _check_alias(alias)
    if not why.strip():
        raise UserError(
            "--why is empty; say in a few words why this generation is promoted, for whoever reads it later"
        )
    made = archive.find(wanted)
    if collected.note(archive.store, made.key):
        raise UserError(
            f"generation {made.short} has no weights any more (clray gc); make them again first: "
            f"clray reproduce {made.short} --restore"
        )
    book, model, version = _registered(archive, made, stream)
    rejected = [] if force else verdicts.rejections(archive.store, made.key, model)
    if rejected:
        raise UserError(
            f"generation {made.short} did not pass its gate: {'. '.join(rejected)}. Promote another generation, loosen "
            "the stream's gate and run it again, or say --force"
        )
    at = _standing(book, model, alias)
    if at and at[0] == version:
        raise UserError(f"generation {made.short} is '{alias}' of '{model}' already; nothing to do")
    if at and (not (known := _way(book.history(model, alias))) or known[-1].version != at[0]):
        found = Move(
            version=at[0], key=at[1], who="", when=now(), why="stood there, moved by other means", action=FOUND
        )
        book.move(model, alias, found)
    move = Move(version=version, key=made.key, who=who, when=now(), why=why.strip(), action=PROMOTE)
    book.move(model, alias, move)
    return Moved(stream=model, alias=alias, before=at[1] if at else None, move=move)


def rollback(archive: Archive, alias: str, why: str, who: str, stream: str | None = None) -> Moved:
    """Moves the alias back to where it stood before. UserError where it never stood elsewhere."""
    _check_alias(alias)
    books = [(book, each) for book in archive.registries for each in book.aliases() if each.alias == alias]
    books = [(book, each) for book, each in books if stream in (None, each.stream)]
    if len(books) != 1:
        names = ", ".join(sorted(each.stream for _, each in books))
        raise UserError(
            f"several streams have an alias '{alias}': {names}; say which with --stream"
            if books
            else f"no generation has the alias '{alias}'; aliases are {', '.join(_all(archive)) or 'none'}"
        )
    [(book, at)] = books
    way = _way(book.history(at.stream, alias))
    if way and way[-1].version == at.version:
        way = way[:-1]
    if not way:
        raise UserError(
            f"'{alias}' of '{at.stream}' stood nowhere before {at.key[:10]}; promote another generation instead: "
            f"clray promote G --to {alias} --why TEXT"
        )
    move = Move(version=way[-1].version, key=way[-1].key, who=who, when=now(), why=why, action=ROLLBACK)
    book.move(at.stream, alias, move)
    return Moved(stream=at.stream, alias=alias, before=at.key, move=move)


def _way(history: Sequence[Move]) -> list[Move]:
    """Where the alias stood, one after the other, as far as it was not taken back."""
    way: list[Move] = []
    for move in history:
        if move.action == ROLLBACK:
            while way and way[-1].version != move.version:
                way.pop()
        elif not way or way[-1].version != move.version:
            way.append(move)
    return way


def _check_alias(alias: str) -> None:
    if alias == NEWEST:
        raise UserError(f"'{NEWEST}' is moved by clray itself, with every new generation; choose another alias")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", alias) or alias == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise UserError(
            f"alias '{alias}': it takes a letter, then up to 63 letters, digits, '_' and '-'; MLflow keeps 'latest' "
            "and v1, v2 and so on for itself"
        )


def _registered(archive: Archive, made: Generation, stream: str | None) -> tuple[Registry, str, str]:
    """Registry, registered model and version of the generation; UserError where there is none, or more than one."""
    found = [
        (book, model, str(version.version))
        for book in archive.registries
        for model, version in book.versions(made.key).items()
        if stream in (None, model)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"generation {made.short} is registered in {', '.join(model for _, model, _ in found)}; say which with "
            "--stream"
        )
    raise UserError(
        f"generation {made.short} is not registered in MLflow{f' in stream {stream!r}' if stream else ''}; give "
        "--tracking URI where the stream is tracked elsewhere, or run the stream that makes it: clray run"
    )


def _standing(book: Registry, model: str, alias: str) -> tuple[str, str] | None:
    """Version and key at which the alias of the registered model stands."""
    found = [each for each in book.aliases() if (each.stream, each.alias) == (model, alias)]
    return (found[0].version, found[0].key) if found else None


def _all(archive: Archive) -> list[str]:
    return sorted({each.alias for each in archive.aliases})

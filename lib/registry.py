"""Versions of a model in a folder or bucket: written once, and a pointer to the champion.

<registry>/<model>/<version>/…bundle…   the card last: without it there is no version
<registry>/<model>/champion.json        swapped with If-Match, and never without a sound bundle
<registry>/runs/<run>.json              who has taken a scheduled run
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lib import bundle, records, storage
from lib.failures import Broken, Misuse
from lib.records import Card

POINTER = "champion.json"

RUNS = "runs"

ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that a model's name stands for, and how it came to that."""

    version: str
    history: list[dict[str, str]]
    """Every change, oldest first: version, at (UTC), reason; and `change`, where it went back."""
    format: int = records.FORMAT

    @property
    def stack(self) -> list[str]:
        """The versions that a rollback can still return to, and the champion last."""
        stack = [] if self.history else [self.version]
        for change in self.history:
            if change.get("change") == ROLLBACK:
                stack.pop()
            else:
                stack.append(change["version"])
        return stack


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has taken a scheduled run."""

    owner: str
    at: str
    """UTC."""
    format: int = records.FORMAT


def publish(registry: str, folder: Path, name: str, version: str) -> str:
    """Copy a bundle's files into the registry, the card last, and return its uri.

    Raises:
        AlreadyThere: the version is there already; versions are written once.
    """
    uri = storage.join(registry, name, version)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == bundle.CARD):
        storage.create(storage.join(uri, path.name), path.read_bytes())
    return uri


def resolve(uri: str) -> str:
    """Return the uri of the bundle that `uri` means: a bundle, or a model's champion.

    Raises:
        Misuse: `uri` is neither.
    """
    if _exists(storage.join(uri, bundle.CARD)):
        return uri
    found = _pointer(uri)
    if found is None:
        raise Misuse(
            f"{uri}: a model must be REGISTRY/NAME, REGISTRY/NAME/VERSION or a bundle's folder; "
            f"there is neither {bundle.CARD} nor {POINTER}{_way_out(uri)}"
        )
    return storage.join(uri, found[0].version)


def names(registry: str) -> list[str]:
    """Return the models of a registry, in alphabetical order.

    Raises:
        Missing: there is no such folder or bucket.
    """
    keys = (storage.relative(entry.uri, registry).split("/") for entry in storage.entries(registry))
    return sorted({key[0] for key in keys if key[1:] == [POINTER] or key[2:] == [bundle.CARD]})


def versions(registry: str, name: str) -> list[str]:
    """Return the whole versions of a model, the oldest first; none where there is no such model."""
    return _versions(storage.join(registry, name))


def card(registry: str, name: str, version: str) -> Card:
    """Return what a version says of itself, from one small object.

    Raises:
        Misuse: there is no such version.
        Broken: the card is damaged.
    """
    uri = storage.join(registry, name, version, bundle.CARD)
    try:
        return records.parse_card(storage.read(uri).data, uri)
    except storage.Missing as error:
        raise _no_version(storage.join(registry, name), version) from error


def champion(registry: str, name: str) -> Champion | None:
    """Return the champion of a model, or None where nothing was promoted yet."""
    found = _pointer(storage.join(registry, name))
    return found[0] if found else None


def promote(registry: str, name: str, version: str, reason: str) -> Champion:
    """Point a model's name at one of its versions, after a look at every byte of it.

    Raises:
        Misuse: there is no such version.
        Broken: the version is damaged.
        Changed: somebody else changed the champion in the same moment; nothing was done.
    """
    model = storage.join(registry, name)
    found = _pointer(model)
    _check_sound(model, version)
    if found and found[0].version == version:
        return found[0]
    return _point(model, found, {"version": version, "at": _now(), "reason": reason})


def rollback(registry: str, name: str, reason: str) -> Champion:
    """Point a model's name at the version before the champion; again, at the one before that.

    Raises:
        Misuse: there is no version to go back to.
        Broken: that version is damaged.
        Changed: somebody else changed the champion in the same moment; nothing was done.
    """
    model = storage.join(registry, name)
    found = _pointer(model)
    if found is None or len(found[0].stack) < 2:
        raise Misuse(f"{model}: there is no champion before this one to go back to")
    before = found[0].stack[-2]
    _check_sound(model, before)
    change = {"version": before, "at": _now(), "reason": reason, "change": ROLLBACK}
    return _point(model, found, change)


def claim(registry: str, run: str, owner: str) -> bool:
    """Take a scheduled run for `owner`, and tell whether it is theirs.

    A schedule may fire twice for the same time: whoever comes second is told False. The same owner,
    a job that is tried again, is told True.
    """
    uri = storage.join(registry, RUNS, f"{run}.json")
    try:
        storage.create(uri, records.to_file(Claim(owner, _now())))
    except storage.AlreadyThere:
        return records.parse_file(storage.read(uri).data, uri).get("owner") == owner
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _exists(uri: str) -> bool:
    try:
        storage.read(uri)
    except storage.Missing:
        return False
    return True


def _versions(model: str) -> list[str]:
    try:
        keys = [storage.relative(e.uri, model).split("/") for e in storage.entries(model)]
    except storage.Missing:
        return []
    return sorted(key[0] for key in keys if key[1:] == [bundle.CARD])


def _no_version(model: str, version: str) -> Misuse:
    return Misuse(f"{model}: has no version {version}")


def _way_out(model: str) -> str:
    """Name the way out where a pointer is gone and its versions are not."""
    found = _versions(model)
    if not found:
        return ""
    return f", but {len(found)} versions ({found[-1]}): `jobs.models promote` makes one champion"


def _check_sound(model: str, version: str) -> None:
    uri = storage.join(model, version)
    if not _exists(storage.join(uri, bundle.CARD)):
        raise _no_version(model, version)
    bundle.load(uri)


def _point(model: str, found: tuple[Champion, str] | None, change: dict[str, str]) -> Champion:
    before, etag = found if found else (None, None)
    after = Champion(change["version"], [*(before.history if before else []), change])
    uri = storage.join(model, POINTER)
    try:
        storage.swap(uri, records.to_file(after), etag)
    except storage.Changed as error:
        raise storage.Changed(
            f"{uri}: somebody else changed the champion in this moment; nothing was done here"
        ) from error
    return after


def _pointer(model: str) -> tuple[Champion, str] | None:
    """Return a model's champion with the etag of its pointer."""
    uri = storage.join(model, POINTER)
    try:
        blob = storage.read(uri)
    except storage.Missing:
        return None
    fields = records.parse_file(blob.data, uri)
    try:
        found = Champion(**fields)
        stack = found.stack
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise Broken(f"{uri}: damaged, a field is missing or wrong ({error})") from error
    if stack[-1:] != [found.version]:
        raise Broken(f"{uri}: damaged, it contradicts itself: {found.version} is not the last")
    if not all(map(records.is_plain, stack)):
        raise Broken(f"{uri}: damaged, a version must be a plain name. Received: {stack}")
    return found, blob.etag

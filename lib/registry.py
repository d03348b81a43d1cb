"""Versions of a model in a folder or bucket: written once, and a pointer to the champion.

<registry>/<model>/<version>/…bundle…
<registry>/<model>/champion.json
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lib import bundle, records, storage
from lib.failures import Broken, Misuse

POINTER = "champion.json"


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that a model's name stands for, and how it came to that."""

    version: str
    history: list[dict[str, str]]
    """Every promotion, oldest first: version, at (UTC), reason."""
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
    champion = _pointer(uri)
    if champion is None:
        raise Misuse(
            f"{uri}: a model must be REGISTRY/NAME, REGISTRY/NAME/VERSION or a bundle's folder; "
            f"there is neither {bundle.CARD} nor {POINTER}"
        )
    return storage.join(uri, champion[0].version)


def champion(registry: str, name: str) -> Champion | None:
    """Return the champion of a model, or None where nothing was promoted yet."""
    found = _pointer(storage.join(registry, name))
    return found[0] if found else None


def promote(registry: str, name: str, version: str, reason: str) -> Champion:
    """Point a model's name at one of its versions.

    Raises:
        Misuse: there is no such version.
        Changed: somebody else promoted in the same moment; nothing was changed.
    """
    model = storage.join(registry, name)
    if not _exists(storage.join(model, version, bundle.CARD)):
        raise Misuse(f"{model}: has no version {version}")
    found = _pointer(model)
    before, etag = found if found else (None, None)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    history = [
        *(before.history if before else []),
        {"version": version, "at": now, "reason": reason},
    ]
    after = Champion(version, history)
    storage.swap(storage.join(model, POINTER), records.to_file(after), etag)
    return after


def _exists(uri: str) -> bool:
    try:
        storage.read(uri)
    except storage.Missing:
        return False
    return True


def _pointer(model: str) -> tuple[Champion, str] | None:
    """Return a model's champion with the etag of its pointer."""
    uri = storage.join(model, POINTER)
    try:
        blob = storage.read(uri)
    except storage.Missing:
        return None
    fields = records.parse_object(blob.data, uri)
    try:
        found = Champion(**fields)
    except TypeError as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error
    if found.format != records.FORMAT or not isinstance(found.version, str):
        raise Broken(f"{uri}: damaged, format {records.FORMAT} and a version are expected")
    return found, blob.etag

"""The models on show: found, loaded, and exchanged when a registry has a new champion."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib import bundle, registry, storage
from lib.bundle import Bundle
from lib.commands import say
from lib.failures import Failure, Misuse

SHIPPED = str(Path(__file__).parent / "models")
"""The finger counter that ships, one bundle for each model."""

REFRESH_EVERY_S = 20.0
"""How often the champions are asked for, in seconds; a new one is on show within a minute."""

MAX_KEPT = 6
"""How many bundles that a visitor chose are kept in memory."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model that can be put on show."""

    model: str
    version: str
    uri: str
    is_shown: bool
    """Whether it is the one that everybody sees: the champion, or the only one."""


class Shelf:
    """The models of some registries and bundles. Nothing is read before it is asked for.

    Args:
        uris: registries, models of a registry, or bundles; folders or `s3://bucket/prefix`.
    """

    def __init__(self, uris: Sequence[str] = (SHIPPED,)) -> None:
        self._uris = tuple(uris)
        self._models: tuple[str, ...] = ()
        self._bundles: tuple[Bundle, ...] = ()
        self._chosen: dict[str, Bundle] = {}
        self._lock = threading.Lock()

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """The models that everybody sees."""
        if not self._bundles:
            self.open()
        return self._bundles

    def open(self) -> None:
        """Find and load the models.

        Raises:
            Misuse: there is no model where one should be, or two of the same name.
            Broken: a bundle is damaged, or the storage fails.
        """
        with self._lock:
            self._models = tuple(model for uri in self._uris for model in _models(uri))
            self._bundles = tuple(bundle.load(registry.resolve(uri)) for uri in self._models)
        names = [b.card.name for b in self._bundles]
        if len(set(names)) < len(names):
            raise Misuse(f"--models must name each model once. Received: {', '.join(names)}")

    def refresh(self) -> None:
        """Load the champions that are new, and keep what is there if that fails."""
        for index, uri in enumerate(self._models):
            try:
                self._exchange(index, registry.resolve(uri))
            except Failure as failure:
                say(f"warning: {uri}: the model on show stays ({failure})")

    def _exchange(self, index: int, uri: str) -> None:
        if uri == self._bundles[index].uri:
            return
        fresh = bundle.load(uri)
        with self._lock:
            self._bundles = (*self._bundles[:index], fresh, *self._bundles[index + 1 :])
        say(f"{fresh.card.name}: version {fresh.card.version} is the champion now")

    def watch(self, every_s: float = REFRESH_EVERY_S) -> None:
        """Go on refreshing in the background, for as long as the process lives."""

        def go_on() -> None:
            while True:
                time.sleep(every_s)
                self.refresh()

        threading.Thread(target=go_on, name="champions", daemon=True).start()

    def versions(self) -> list[Version]:
        """Return every version that can be chosen, of each model the one on show first."""
        bundles, found = self.bundles, []
        for uri, shown in zip(self._models, bundles, strict=True):
            name = shown.card.name
            found.append(Version(name, shown.card.version, shown.uri, is_shown=True))
            found += [
                Version(name, version, storage.join(uri, version), is_shown=False)
                for version in _versions(uri)
                if version != shown.card.version
            ]
        return found

    def classes(self, chosen: dict[str, str]) -> tuple[str, ...]:
        """Return every class of any model that `pick` gives, in the order of the cards."""
        return tuple(dict.fromkeys(name for b in self.pick(chosen) for name in b.card.classes))

    def pick(self, chosen: dict[str, str]) -> tuple[Bundle, ...]:
        """Return the models on show, those in `chosen` (name to uri) in the version chosen."""
        return tuple(
            self._get(chosen[shown.card.name], shown) if shown.card.name in chosen else shown
            for shown in self.bundles
        )

    def named(self, name: str | None, chosen: dict[str, str]) -> Bundle:
        """Return the model of that name as `pick` does; the last one where none is named."""
        picked = self.pick(chosen)
        return next((b for b in picked if b.card.name == name), picked[-1])

    def _get(self, uri: str, shown: Bundle) -> Bundle:
        if uri == shown.uri:
            return shown
        with self._lock:
            found = self._chosen.pop(uri, None) or bundle.load(uri)
            self._chosen[uri] = found
            while len(self._chosen) > MAX_KEPT:
                del self._chosen[next(iter(self._chosen))]
        return found


def _models(uri: str) -> list[str]:
    """Return the models at `uri`: itself, or the bundles and models right below it."""
    try:
        keys = [storage.relative(entry.uri, uri) for entry in storage.entries(uri)]
    except storage.Missing:
        keys = []
    if bundle.CARD in keys or registry.POINTER in keys:
        return [uri]
    marks = (bundle.CARD, registry.POINTER)
    found = [key.split("/")[0] for key in keys if key.count("/") == 1 and key.endswith(marks)]
    if not found:
        raise Misuse(
            f"{uri}: models must be a registry, REGISTRY/NAME or a bundle's folder; "
            f"there is neither {bundle.CARD} nor {registry.POINTER} in it or in its folders"
        )
    return [storage.join(uri, name) for name in found]


def _versions(uri: str) -> list[str]:
    """Return the versions of a model in a registry, the newest first; a bundle has none."""
    keys = (storage.relative(entry.uri, uri) for entry in storage.entries(uri))
    found = [key.split("/")[0] for key in keys if key.endswith(f"/{bundle.CARD}")]
    return sorted(found, reverse=True)

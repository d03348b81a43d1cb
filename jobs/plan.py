"""The plan of a batch run: what is asked, listed once, cut into shards; and where its parts lie.

<output>/<run>/plan.json                       written once, last of the plan
<output>/<run>/plan/shard-00000.jsonl …        uri, etag, size: read by its shard alone
<output>/<run>/predictions/part-00000.jsonl …  records.Prediction
<output>/<run>/errors/part-00000.jsonl …       records.ErrorRow
<output>/<run>/done/shard-00000.json           written last by a shard: its counts
<output>/<run>/summary.json                    written last of all
"""

from __future__ import annotations

import fnmatch
import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import IO

from lib import images, records, storage
from lib.bundle import Bundle
from lib.failures import Broken, Misuse

IMAGES_PER_SHARD = 10_000
"""How many images a shard has at the most, unless asked for otherwise."""


@dataclass(frozen=True, slots=True)
class Options:
    """What changes the rows of a run, and with them its name."""

    include: tuple[str, ...] = ()
    """Globs of keys below the source; without any, keys that end like an image."""
    max_error_rate: float = 0.1
    """The share of errors, 0 to 1, over which the run stops."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do: `plan.json`, immutable."""

    run: str
    source: str
    model: str
    version: str
    model_digest: str
    """SHA-256 of the bundle's card; a shard refuses to run with any other."""
    listing_digest: str
    """SHA-256 of all shard files together."""
    n_images: int
    n_bytes: int
    n_shards: int
    skipped: dict[str, int]
    """Keys that are not taken for images, counted by their ending."""
    options: Options
    format: int = records.FORMAT

    @property
    def n_listed(self) -> int:
        """Every key of the source: images and skipped ones."""
        return self.n_images + sum(self.skipped.values())


@dataclass(frozen=True, slots=True)
class Image:
    """One line of a shard file: an image as it was when it was listed."""

    uri: str
    etag: str
    size_bytes: int


def shard_uri(root: str, index: int) -> str:
    """Return where a shard's list of images lies."""
    return storage.join(root, f"plan/shard-{index:05}.jsonl")


def part_uri(root: str, kind: str, index: int) -> str:
    """Return where a shard's rows lie; `kind` is `predictions` or `errors`."""
    return storage.join(root, f"{kind}/part-{index:05}.jsonl")


def done_uri(root: str, index: int) -> str:
    """Return where a shard says that it is done."""
    return storage.join(root, f"done/shard-{index:05}.json")


def make(
    source: str, output: str, model: Bundle, options: Options, run: str | None
) -> tuple[Plan, str]:
    """List the source, write the plan unless it is there already, return it and the run's folder.

    Raises:
        Misuse: `run` names a run of another listing, model or options.
        Broken: the storage failed; without `plan.json` nothing counts as planned.
    """
    with tempfile.TemporaryFile("w+b") as spool:
        plan = _list(source, model, options, spool)
        run = run or _digest(plan)[:16]
        plan = replace(plan, run=run)
        root = storage.join(output, run)
        existing = find(root)
        if existing is not None:
            if existing != plan:
                raise Misuse(
                    f"{root}: is a run of another listing, model or options; choose another --run"
                )
            return existing, root
        spool.seek(0)
        for index in range(plan.n_shards):
            size = _shard_size(plan, index)
            _create_same(shard_uri(root, index), b"".join(spool.readline() for _ in range(size)))
        _create_same(storage.join(root, "plan.json"), records.to_file(plan))
    return plan, root


def find(root: str) -> Plan | None:
    """Return the plan that lies in a run's folder, or None.

    Raises:
        Broken: the plan is damaged.
    """
    uri = storage.join(root, "plan.json")
    try:
        fields = records.parse_object(storage.read(uri).data, uri)
    except storage.Missing:
        return None
    try:
        options = fields["options"]
        plan = Plan(
            **fields | {"options": Options(**options | {"include": tuple(options["include"])})}
        )
    except (KeyError, TypeError) as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error
    if plan.format != records.FORMAT:
        raise Broken(f"{uri}: format must be {records.FORMAT}. Received: {plan.format!r}")
    return plan


def shard_images(plan: Plan, root: str, index: int) -> list[Image]:
    """Return the images of one shard.

    Raises:
        Broken: the shard file is missing or damaged.
    """
    uri = shard_uri(root, index)
    lines = storage.read(uri).data.splitlines()
    if len(lines) != _shard_size(plan, index):
        raise Broken(f"{uri}: must have {_shard_size(plan, index)} lines. Received: {len(lines)}")
    try:
        return [Image(**records.parse_object(line, uri)) for line in lines]
    except TypeError as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error


def _list(source: str, model: Bundle, options: Options, spool: IO[bytes]) -> Plan:
    """Write a line for each image to `spool` and return the plan, not named yet."""
    skipped, digest = Counter[str](), hashlib.sha256()
    n_images = n_bytes = 0
    for entry in storage.entries(source):
        key = storage.relative(entry.uri, source)
        if not _is_included(key, options.include):
            skipped[PurePosixPath(key).suffix.lower() or "no ending"] += 1
            continue
        line = records.to_line(Image(entry.uri, entry.etag, entry.size_bytes))
        spool.write(line)
        digest.update(line)
        n_images, n_bytes = n_images + 1, n_bytes + entry.size_bytes
    return Plan(
        run="",
        source=source,
        model=model.card.name,
        version=model.card.version,
        model_digest=model.digest,
        listing_digest=digest.hexdigest(),
        n_images=n_images,
        n_bytes=n_bytes,
        n_shards=max(1, -(-n_images // IMAGES_PER_SHARD)),
        skipped=dict(sorted(skipped.items())),
        options=options,
    )


def _is_included(key: str, include: Sequence[str]) -> bool:
    if not include:
        return images.has_image_extension(key)
    return any(fnmatch.fnmatchcase(key, glob) for glob in include)


def _shard_size(plan: Plan, index: int) -> int:
    """Return how many images a shard has; they differ by one at the most."""
    return plan.n_images * (index + 1) // plan.n_shards - plan.n_images * index // plan.n_shards


def _digest(plan: Plan) -> str:
    return hashlib.sha256(records.to_json(plan).encode()).hexdigest()


def _create_same(uri: str, data: bytes) -> None:
    """Create an object, or find it there with the same bytes: another process was faster."""
    try:
        storage.create(uri, data)
    except storage.AlreadyThere as error:
        if storage.read(uri).data != data:
            raise Broken(f"{uri}: is there already with other content") from error

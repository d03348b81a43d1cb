"""The plan of a batch run: what is asked, listed once, cut into shards; and where its parts lie.

<output>/<run>/plan.json                       written once, last of the plan
<output>/<run>/plan/shard-00000.jsonl …        uri, etag, size: read by its shard alone
<output>/<run>/predictions/part-00000.jsonl …  records.Prediction
<output>/<run>/errors/part-00000.jsonl …       records.ErrorRow
<output>/<run>/done/shard-00000.json           written last by a shard: its counts
<output>/<run>/summary.json                    written last of all

A shard is what one worker does; a part is what a crash may cost. A shard of many images has several
parts, numbered through the run.
"""

from __future__ import annotations

import fnmatch
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import IO

from jobs import earlier, patience, sources
from jobs.rows import Rows
from jobs.sources import Image
from lib import images, records, storage
from lib.bundle import Bundle
from lib.failures import Broken, Misuse
from lib.records import ErrorRow, Prediction

IMAGES_PER_SHARD = 10_000
"""How many images a shard has at the most, unless a number of shards is asked for."""

IMAGES_PER_PART = 2_000
"""How many images a part has at the most: seconds of work."""

NAME_DIGITS = 16
"""Hexadecimal digits of a SHA-256 that name a run or tell a shard file from any other."""


@dataclass(frozen=True, slots=True)
class Options:
    """What changes the rows of a run, and with them its name."""

    include: tuple[str, ...] = ()
    """Globs of keys below the source; without any, keys that end like an image."""
    incremental: bool = False
    """Whether images are left out that an earlier run of this model has a row for."""
    format: str = "jsonl"
    """One of `rows.FORMATS`; the ending of the parts' names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do: `plan.json`, immutable."""

    run: str
    sources: tuple[str, ...]
    model: str
    version: str
    model_digest: str
    """SHA-256 of the bundle's card; a shard refuses to run with any other."""
    listing_digest: str
    """SHA-256 of all shard files together."""
    n_images: int
    n_bytes: int
    skipped: dict[str, int]
    """Keys that are not taken for images, counted by their ending."""
    n_classified_before: int
    """Images that an incremental run leaves out."""
    options: Options
    images_per_part: int
    shards: tuple[str, ...] = ()
    """The start of the SHA-256 of every shard file: how the listing was cut, not what is asked."""
    format: int = records.FORMAT

    @property
    def n_shards(self) -> int:
        """How many workers the run is cut for."""
        return len(self.shards)

    @property
    def n_skipped(self) -> int:
        """Keys of the source that get no row."""
        return sum(self.skipped.values()) + self.n_classified_before

    @property
    def n_listed(self) -> int:
        """Every key of the source: images and skipped ones."""
        return self.n_images + self.n_skipped


@dataclass(frozen=True, slots=True)
class Part:
    """Some images of a shard, whose rows are written together."""

    number: int
    images: list[Image]


def part_uri(plan: Plan, root: str, kind: str, number: int) -> str:
    """Return where a part's rows lie; `kind` is `predictions` or `errors`."""
    return storage.join(root, f"{kind}/part-{number:05}.{plan.options.format}")


def done_uri(root: str, index: int) -> str:
    """Return where a shard says that it is done."""
    return storage.join(root, f"done/shard-{index:05}.json")


def make(
    asked: Sequence[str] | str,
    output: str,
    model: Bundle,
    options: Options,
    run: str | None = None,
    n_shards: int | None = None,
) -> tuple[Plan, str]:
    """List the sources, write the plan unless it is there already, return it and the run's folder.

    An incremental run that has nothing to classify is returned and not written.

    Args:
        asked: one source or several.
        run: a name for the run; the default is a digest of what is asked.
        n_shards: how many shards exactly; the default is as many as the images fill.

    Raises:
        Misuse: `run` names a run of another listing, model or options, or of other shards.
        Broken: the storage failed; without `plan.json` nothing counts as planned.
    """
    with tempfile.TemporaryFile("w+b") as spool:
        plan = draft(asked, output, model, options, spool, run)
        root = storage.join(output, plan.run)
        if options.incremental and not plan.n_images:
            return plan, root
        existing = find(root)
        if existing is None:
            existing = _write(plan, root, spool, n_shards or default_shards(plan))
    if replace(existing, shards=()) != plan:
        raise Misuse(f"{root}: is a run of another listing, model or options; choose another --run")
    if n_shards not in (None, existing.n_shards):
        raise Misuse(f"{root}: is planned with {existing.n_shards} shards. Received: {n_shards}")
    return existing, root


def draft(
    asked: Sequence[str] | str,
    output: str,
    model: Bundle,
    options: Options,
    spool: IO[bytes],
    run: str | None = None,
) -> Plan:
    """Write a line for each image to `spool` and return the plan, not cut into shards yet."""
    asked = (asked,) if isinstance(asked, str) else tuple(sorted(set(asked)))
    known = earlier.NOTHING
    if options.incremental:
        known = earlier.rows(_earlier_parts(output, model, but=storage.join(output, run or "")))
    skipped, digest = Counter[str](), hashlib.sha256()
    n_images = n_bytes = n_known = 0
    for key, image in sources.walk(asked, output):
        if not _is_included(key, options.include):
            skipped[PurePosixPath(key).suffix.lower() or "no ending"] += 1
        elif (image.uri, image.etag) in known:
            n_known += 1
        else:
            line = records.to_line(image)
            spool.write(line)
            digest.update(line)
            n_images, n_bytes = n_images + 1, n_bytes + image.size_bytes
    plan = Plan(
        run=run or "",
        sources=asked,
        model=model.card.name,
        version=model.card.version,
        model_digest=model.digest,
        listing_digest=digest.hexdigest(),
        n_images=n_images,
        n_bytes=n_bytes,
        skipped=dict(sorted(skipped.items())),
        n_classified_before=n_known,
        options=options,
        images_per_part=IMAGES_PER_PART,
    )
    return plan if run else replace(plan, run=_digest(records.to_json(plan).encode()))


def default_shards(plan: Plan) -> int:
    """Return how many shards a plan has if nobody asks for a number."""
    return max(1, -(-plan.n_images // IMAGES_PER_SHARD))


def find(root: str) -> Plan | None:
    """Return the plan that lies in a run's folder, or None.

    Raises:
        Broken: the plan is damaged.
    """
    uri = storage.join(root, "plan.json")
    try:
        fields = records.parse_file(patience.read(uri), uri)
    except storage.Missing:
        return None
    try:
        options = fields["options"]
        return Plan(
            **fields
            | {
                "options": Options(**options | {"include": tuple(options["include"])}),
                "sources": tuple(fields["sources"]),
                "shards": tuple(fields["shards"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error


def find_asked(
    asked: Sequence[str], output: str, model: Bundle, options: Options, run: str | None
) -> tuple[Plan, str]:
    """Return the plan that a worker is to take a shard of, and the run's folder; nothing is listed.

    Raises:
        Misuse: there is none, it asks for something else, or there are several and `run` is None.
    """
    question = (tuple(sorted(set(asked))), options)
    roots = [storage.join(output, run)] if run else roots_below(output)
    found = [(plan, root) for root in roots if (plan := find(root)) is not None]
    fitting = [
        (plan, root)
        for plan, root in found
        if (plan.sources, plan.options) == question
        and (run or plan.model_digest == model.digest)  # a run by its name is refused by its shard
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not found or not run:
        n_runs = f"{len(fitting)} runs" if fitting else "no run"
        raise Misuse(
            f"{output}: a shard belongs to a run that --shards planned before and --run names. "
            f"Found: {n_runs} of these sources, options and this model"
        )
    raise Misuse(f"{roots[0]}: is a run of other sources or options; choose another --run")


def roots_below(output: str) -> list[str]:
    """Return the folder of every planned run in an output."""
    try:
        names = [storage.relative(entry.uri, output) for entry in storage.entries(output)]
    except storage.Missing:
        return []
    split = (name.partition("/") for name in names)
    return [storage.join(output, run) for run, _, rest in split if rest == "plan.json"]


def _earlier_parts(output: str, model: Bundle, but: str) -> Iterator[tuple[Rows, type, str]]:
    """Yield format, kind and uri of every part of the complete runs of a model, but for one.

    A run that is not complete goes on by its own command, which must find the same listing again.
    """
    for root in roots_below(output):
        plan = find(root) if root != but else None
        if plan is None or plan.model_digest != model.digest or not _is_complete(root):
            continue
        rows = Rows(plan.options.format, model.card.classes)
        for kind, folder in ((Prediction, "predictions"), (ErrorRow, "errors")):
            for entry in storage.entries(storage.join(root, folder)):
                yield rows, kind, entry.uri


def _is_complete(root: str) -> bool:
    try:
        storage.stat(storage.join(root, "summary.json"))
    except storage.Missing:
        return False
    return True


def shard_size(plan: Plan, index: int) -> int:
    """Return how many images a shard has; they differ by one at the most."""
    return _cut(plan.n_images, plan.n_shards, index)


def parts(plan: Plan, root: str, index: int) -> list[Part]:
    """Return the images of one shard, in parts; at least one part, if need be an empty one.

    Raises:
        Broken: the shard file is missing or damaged.
    """
    images = _shard_images(plan, root, index)
    first = sum(_n_parts(plan, before) for before in range(index))
    size = plan.images_per_part
    return [
        Part(first + k, images[k * size : (k + 1) * size]) for k in range(_n_parts(plan, index))
    ]


def _n_parts(plan: Plan, index: int) -> int:
    return max(1, -(-shard_size(plan, index) // plan.images_per_part))


def _shard_uri(root: str, index: int) -> str:
    return storage.join(root, f"plan/shard-{index:05}.jsonl")


def _shard_images(plan: Plan, root: str, index: int) -> list[Image]:
    uri = _shard_uri(root, index)
    data = patience.read(uri)
    if _digest(data) != plan.shards[index]:
        raise Broken(f"{uri}: damaged, it is not the file that the plan names (SHA-256 differs)")
    try:
        images = [Image(**records.parse_object(line, uri)) for line in data.splitlines()]
    except TypeError as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error
    if len(images) != shard_size(plan, index):
        raise Broken(f"{uri}: must have {shard_size(plan, index)} images. Received: {len(images)}")
    return images


def _is_included(key: str, include: Sequence[str]) -> bool:
    if not include:
        return images.has_image_extension(key)
    return any(fnmatch.fnmatchcase(key, glob) for glob in include)


def _write(plan: Plan, root: str, spool: IO[bytes], n_shards: int) -> Plan:
    """Write the shard files, then the plan, and return it: another's, if it was there first."""
    spool.seek(0)
    digests = []
    for index in range(n_shards):
        data = b"".join(islice(spool, _cut(plan.n_images, n_shards, index)))
        digests.append(_digest(data))
        _write_shard(_shard_uri(root, index), data)
    plan = replace(plan, shards=tuple(digests))
    try:
        patience.create(storage.join(root, "plan.json"), records.to_file(plan))
    except storage.AlreadyThere:
        return find(root) or plan
    return plan


def _write_shard(uri: str, data: bytes) -> None:
    """Write a shard file, over what a planning that never ended may have left there."""
    try:
        patience.create(uri, data)
    except storage.AlreadyThere:
        if patience.read(uri) != data:
            storage.write(uri, data)


def _cut(n_images: int, n_shards: int, index: int) -> int:
    return n_images * (index + 1) // n_shards - n_images * index // n_shards


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:NAME_DIGITS]

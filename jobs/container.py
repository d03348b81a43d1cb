"""Run a job as a container does: once for a scheduled time, and with one notice of how it ended."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lib import commands, registry, storage
from lib.commands import say
from lib.failures import Failure, Misuse

JOBS = ("train", "predict")

TOPIC = "HANDFUL_TOPIC"
"""The environment variable with the SNS topic's ARN; without it nobody is told."""

ATTEMPTS = "HANDFUL_ATTEMPTS"
"""The environment variable with the attempts that Batch makes."""

BACKBONE = "HANDFUL_BACKBONE"
"""The environment variable with the weights that an image holds; a training starts from them."""

TOLD = 4
"""The exit code of a failure that the notice tells of; the rule for silent deaths leaves it out."""

SUBJECT_LENGTH = 99
"""SNS takes fewer than 100 characters, ASCII only."""

MESSAGE_LENGTH = 60_000
"""SNS takes 256 KiB; nobody reads more than this."""

NEXT_STEPS = {
    0: "`jobs.models list REGISTRY` shows every version; `rollback REGISTRY NAME` goes back",
    1: "the log tells more; the same command again goes on where this one stopped",
    2: "correct the arguments of the schedule or of the command",
    3: "correct the images named above; a retry does not help",
}
"""What to do, by the exit code of the job."""


@dataclass(frozen=True)
class Notice:
    """One readable message: what happened, why, where, and what to do."""

    subject: str
    why: str
    table: str
    next_step: str

    @property
    def text(self) -> str:
        """The body: plain text, for a mail."""
        job, index = os.environ.get("AWS_BATCH_JOB_ID", "this machine"), _array_index()
        where = f"job {job}" + (f", the last of an array: shard {index}" if index else "")
        lines = [
            f"What:  {self.subject}",
            f"Why:   {self.why}",
            f"Where: {where}",
            f"Next:  {self.next_step}",
        ]
        return "\n".join([*lines, "", self.table])[:MESSAGE_LENGTH]


class _Tee(io.StringIO):
    """Text that is kept and passed on at once."""

    def __init__(self, onward: io.TextIOBase) -> None:
        super().__init__()
        self._onward = onward

    def write(self, text: str) -> int:
        self._onward.write(text)
        return super().write(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = commands.Parser(
        prog="python -m jobs.container",
        description=__doc__,
        example="python -m jobs.container train s3://photos/hands --registry s3://models",
    )
    parser.add_argument("--once", metavar="TIME", help="the scheduled time: the second stops")
    parser.add_argument("--root", metavar="URI", help="the folder of an array's run")
    parser.add_argument("job", choices=JOBS)
    arguments, rest = parser.parse_known_args(argv)
    if arguments.once and not _is_ours(arguments.once, rest):
        say(f"the run of {arguments.once} is somebody else's: it was delivered twice")
        return
    backbone = os.environ.get(BACKBONE)
    if arguments.job == "train" and backbone and "--backbone" not in rest:
        rest += ["--backbone", backbone]
    _run(arguments.job, rest, arguments.root)


def _is_ours(time: str, rest: Sequence[str]) -> bool:
    if "--registry" not in rest[:-1]:
        raise Misuse("--once needs the --registry of the training")
    owner = os.environ.get("AWS_BATCH_JOB_ID", f"process {os.getpid()}")
    return registry.claim(rest[rest.index("--registry") + 1], time, owner)


def _run(job: str, rest: Sequence[str], root: str | None) -> None:
    """Run a job, and publish how it ended before its own failure goes on."""
    out = _Tee(sys.stdout)
    try:
        with contextlib.redirect_stdout(out):
            importlib.import_module(f"jobs.{job}").main(rest)
    except Failure as failure:
        if _tell_failure(job, failure.exit_code, str(failure), out.getvalue()):
            say(f"error: {failure}")
            sys.exit(failure.exit_code if failure.exit_code > 1 else TOLD)
        raise
    if _array_index() is None or (root and _is_first_to_tell(root)):
        lines = out.getvalue().splitlines() or ["nothing"]
        _publish(Notice(f"{job} finished", lines[-1], out.getvalue(), NEXT_STEPS[0]))


def _tell_failure(job: str, exit_code: int, why: str, table: str) -> bool:
    """Publish a failure that no further attempt mends; one shard's is told with its array's."""
    attempt = int(os.environ.get("AWS_BATCH_JOB_ATTEMPT", "1"))
    is_last = exit_code in (2, 3) or attempt >= int(os.environ.get(ATTEMPTS, "1"))
    if _array_index() is not None or not is_last:
        return False
    return _publish(Notice(f"{job} failed", why, table, NEXT_STEPS[exit_code]))


def _array_index() -> str | None:
    return os.environ.get("AWS_BATCH_JOB_ARRAY_INDEX")


def _is_first_to_tell(root: str) -> bool:
    """Tell whether a run is complete and nobody has said so: of many shards, one does."""
    from jobs import summary

    if summary.find(root) is None:
        return False
    try:
        storage.create(storage.join(root, "told.json"), b"{}\n")
    except storage.AlreadyThere:
        return False
    return True


def _publish(notice: Notice) -> bool:
    topic = os.environ.get(TOPIC)
    if not topic:
        return False
    from jobs import stack

    subject = f"handful: {notice.subject}".encode("ascii", "replace").decode()[:SUBJECT_LENGTH]
    try:
        with stack.refusals("the notice"):
            sns = stack.client("sns")
            sns.publish(TopicArn=topic, Subject=subject, Message=notice.text)
    except Failure as failure:  # a job that did its work has not failed because nobody heard of it
        say(f"warning: {failure}")
        return False
    return True


if __name__ == "__main__":
    commands.run(main)

"""The deployed template as the commands see it: its outputs, and boto3's refusals in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.failures import Broken, Misuse

DEFAULT = "handful"

OUTPUTS = (
    "Region",
    "TrainQueue",
    "PredictQueue",
    "SpotQueue",
    "TrainDefinition",
    "PredictDefinition",
    "SchedulerRole",
    "ScheduleGroup",
    "ScheduleDeadLetters",
    "LogGroup",
)
"""What `infra/template.yaml` must tell of itself."""


@dataclass(frozen=True)
class Stack:
    """A deployed stack, and the requests that reach it."""

    name: str
    outputs: Mapping[str, str]

    def __getitem__(self, output: str) -> str:
        return self.outputs[output]

    def job(self, kind: str, command: Sequence[str], *, queue: str) -> dict[str, Any]:
        """Return the request, as Batch takes it, for a job that runs a command."""
        return {
            "jobName": f"{self.name}-{kind}",
            "jobQueue": self[queue],
            "jobDefinition": self[f"{kind.capitalize()}Definition"],
            "containerOverrides": {"command": list(command)},
        }

    def job_link(self, job_id: str) -> str:
        """Return where the console shows a job."""
        return f"{self._console('batch')}#jobs/detail/{job_id}"

    def log_link(self) -> str:
        """Return where the console shows what the jobs write."""
        group = self["LogGroup"].replace("/", "$252F")
        return f"{self._console('cloudwatch')}#logsV2:log-groups/log-group/{group}"

    def _console(self, service: str) -> str:
        region = self["Region"]
        return f"https://{region}.console.aws.amazon.com/{service}/home?region={region}"


def container_command(kind: str, arguments: Sequence[str], *options: str) -> list[str]:
    """Return what a container runs for `jobs.train` or `jobs.predict` with these arguments."""
    return ["python", "-m", "jobs.container", *options, kind, *arguments]


def check_places(arguments: Sequence[str]) -> None:
    """Refuse what a container would look for in its own file system.

    Raises:
        Misuse: a place is a folder of this machine.
    """
    for place, before in zip(arguments, ["", *arguments], strict=False):
        must_be_s3 = before in ("--registry", "--model") or Path(place).is_dir()
        if must_be_s3 and not place.startswith("s3://"):
            raise Misuse(f"in the cloud, places must be s3://bucket/prefix. Received: {place}")
    if not any(place.startswith("s3://") for place in arguments):
        received = " ".join(arguments) or "nothing"
        raise Misuse(f"in the cloud, places must be s3://bucket/prefix. Received: {received}")


def find(name: str) -> Stack:
    """Return a deployed stack.

    Raises:
        Misuse: there is none of that name, or it is no stack of `infra/template.yaml`.
        Broken: AWS refuses or cannot be reached.
    """
    with refusals(f"stack {name}"):
        found = client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", ())}
    missing = [output for output in OUTPUTS if output not in outputs]
    if missing:
        raise Misuse(f"stack {name}: is no stack of infra/template.yaml, it lacks {missing[0]}")
    return Stack(name, outputs)


def client(service: str) -> Any:
    """Return a client of boto3, the control plane."""
    import boto3

    return boto3.Session().client(service)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn what boto3 raises into one line that begins with `what`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        kind = Misuse if code in _OURS else Broken
        raise kind(f"{what}: {message} ({code})") from error
    except BotoCoreError as error:
        raise Broken(f"{what}: {' '.join(str(error).split())}") from error


_OURS = ("ConflictException", "ResourceNotFoundException", "ValidationError", "ValidationException")
"""Codes by which AWS says that the request was wrong, and not that it failed."""

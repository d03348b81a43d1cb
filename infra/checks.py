"""Faults of a CloudFormation template that cfn-lint lets pass, and that cost money or sleep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import expressions
from lib.failures import Misuse

TARGETS = ("aws-sdk:batch:submitJob",)
"""The universal targets that a schedule may have; a typo in one is found when it first fires."""

FARGATE_MEMORY_MB = {
    "0.25": (512, 1024, 2048),
    "0.5": tuple(range(1024, 4097, 1024)),
    "1": tuple(range(2048, 8193, 1024)),
    "2": tuple(range(4096, 16385, 1024)),
    "4": tuple(range(8192, 30721, 1024)),
    "8": tuple(range(16384, 61441, 4096)),
    "16": tuple(range(32768, 122881, 8192)),
}
"""Memory that Fargate has for each number of vCPU.

https://docs.aws.amazon.com/batch/latest/APIReference/API_ResourceRequirement.html
"""

MAX_ATTEMPTS = 3

MIN_TIMEOUT_S = 60
"""Batch takes no less."""

MAX_TIMEOUT_S = 86_400

ANYWHERE = ("ecr:GetAuthorizationToken",)
"""Actions for which AWS knows no resource but `*`."""


def load(path: Path) -> dict[str, Any]:
    """Return a template, YAML with CloudFormation's tags, as plain objects.

    Raises:
        Misuse: it is no YAML.
    """
    from cfnlint.decode import decode

    template, faults = decode(str(path))
    if faults or template is None:
        raise Misuse(f"{path}: {'; '.join(str(fault) for fault in faults) or 'is no template'}")
    return json.loads(json.dumps(template))


def faults(template: dict[str, Any]) -> list[str]:
    """Return what is wrong, a line for each fault."""
    found = []
    for name, resource in template["Resources"].items():
        check = CHECKS.get(resource["Type"])
        if check is not None:
            found += [f"{name}: {fault}" for fault in check(resource["Properties"], template)]
    return found


def _schedule(properties: dict[str, Any], template: dict[str, Any]) -> Iterator[str]:
    expression = _value(properties["ScheduleExpression"], template)
    try:
        expressions.parse(expression)
        expressions.zone(_value(properties.get("ScheduleExpressionTimezone", "UTC"), template))
    except Misuse as error:
        yield str(error)
    target = properties["Target"]
    if not _text(target["Arn"]).endswith(TARGETS):
        yield f"the target must be {TARGETS[0]}. Received: {_text(target['Arn'])}"
    retries = target.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185)
    if retries > MAX_ATTEMPTS:
        yield f"MaximumRetryAttempts must be at most {MAX_ATTEMPTS}. Received: {retries}"
    if "DeadLetterConfig" not in target:
        yield "DeadLetterConfig must name a queue: what cannot be delivered is lost"
    if _value(properties.get("State"), template) != "DISABLED":
        yield "State must be DISABLED until asked"


def _job(properties: dict[str, Any], template: dict[str, Any]) -> Iterator[str]:
    container = properties["ContainerProperties"]
    for needed in ("ExecutionRoleArn", "JobRoleArn", "LogConfiguration"):
        if needed not in container:
            yield f"{needed} must be there"
    if container.get("Privileged"):
        yield "Privileged must not be there: Fargate refuses it"
    if not container.get("ReadonlyRootFilesystem"):
        yield "ReadonlyRootFilesystem must be true"
    yield from _size(container)
    attempts = properties.get("RetryStrategy", {}).get("Attempts", 1)
    if attempts > MAX_ATTEMPTS:
        yield f"Attempts must be at most {MAX_ATTEMPTS}. Received: {attempts}"
    timeout_s = properties.get("Timeout", {}).get("AttemptDurationSeconds", 0)
    if not MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S:
        yield (
            f"AttemptDurationSeconds must be {MIN_TIMEOUT_S} to {MAX_TIMEOUT_S}. "
            f"Received: {timeout_s}"
        )
    rules = properties.get("RetryStrategy", {}).get("EvaluateOnExit", [])
    stopped = {rule.get("OnExitCode") for rule in rules if rule["Action"] == "EXIT"}
    if not {"2", "3"} <= stopped:
        yield "EvaluateOnExit must EXIT on 2 and 3: what matches no rule is tried again"


def _size(container: dict[str, Any]) -> Iterator[str]:
    asked = {r["Type"]: str(r["Value"]) for r in container.get("ResourceRequirements", ())}
    vcpus, memory_mb = asked.get("VCPU", "none"), asked.get("MEMORY", "none")
    allowed = FARGATE_MEMORY_MB.get(vcpus, ())
    if memory_mb not in map(str, allowed):
        yield f"Fargate has no {vcpus} vCPU with {memory_mb} MB; with these it has {allowed}"


def _policy(properties: dict[str, Any], template: dict[str, Any]) -> Iterator[str]:
    for statement in _list(properties["PolicyDocument"]["Statement"]):
        if statement["Effect"] != "Allow":
            continue
        actions = _list(statement["Action"])
        for action in actions:
            if "*" in action:
                yield f"an action must be named, not {action}"
            if "Delete" in action and not action.startswith("sqs:"):
                yield f"no job may delete: {action}"
        if "*" in _list(statement["Resource"]) and not set(actions) <= set(ANYWHERE):
            yield f"the resource of {', '.join(actions)} must be named, not *"


def _role(properties: dict[str, Any], template: dict[str, Any]) -> Iterator[str]:
    if "Policies" in properties:
        yield "policies must stand in an AWS::IAM::Policy, where they are enforced in the tests too"
    for arn in properties.get("ManagedPolicyArns", ()):
        if "service-role/" not in _text(arn):
            yield f"a managed policy must be a service role's. Received: {_text(arn)}"


def _bucket(properties: dict[str, Any], template: dict[str, Any]) -> Iterator[str]:
    blocked = properties.get("PublicAccessBlockConfiguration", {})
    if sum(value is True for value in blocked.values()) != 4:
        yield "PublicAccessBlockConfiguration must block all four ways"
    if "BucketEncryption" not in properties:
        yield "BucketEncryption must be there"
    rules = properties.get("LifecycleConfiguration", {}).get("Rules", ())
    if not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        yield "a lifecycle rule must abort incomplete uploads: they are paid for and not seen"


CHECKS = {
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::Batch::JobDefinition": _job,
    "AWS::IAM::Policy": _policy,
    "AWS::IAM::ManagedPolicy": _policy,
    "AWS::IAM::Role": _role,
    "AWS::S3::Bucket": _bucket,
}


def _value(value: Any, template: dict[str, Any]) -> Any:
    """Return a value, or the default of the parameter that it refers to."""
    if isinstance(value, dict) and "Ref" in value:
        return template["Parameters"][value["Ref"]]["Default"]
    return value


def _text(value: Any) -> str:
    """Return the text of a value or of its `Fn::Sub`."""
    if isinstance(value, dict):
        value = value.get("Fn::Sub", "")
    return re.sub(r"\$\{[^}]*\}", "aws", value if isinstance(value, str) else value[0])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

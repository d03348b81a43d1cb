"""The template, the images and the deployment: held against what cfn-lint, hadolint and we know."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cfnlint import api
from emulator import ROOT, Cloud, cloud, stack_parameters  # noqa: F401

from infra import checks
from jobs import schedule, stack, upload

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

TEMPLATE = ROOT / "infra" / "template.yaml"

DOCKERFILE = ROOT / "infra" / "Dockerfile"

Fault = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return checks.load(TEMPLATE)


def properties(template: dict[str, Any], name: str) -> dict[str, Any]:
    return template["Resources"][name]["Properties"]


def test_the_template_has_no_fault(template: dict[str, Any]) -> None:
    assert api.lint_file(TEMPLATE) == []
    assert checks.faults(template) == []


def put(name: str, path: str, value: Any) -> Fault:
    """Return what sets one property, by its dotted path, or takes it away (None)."""

    def seed(template: dict[str, Any]) -> None:
        place: Any = properties(template, name)
        *steps, last = path.split(".")
        for step in steps:
            place = place[int(step) if step.isdecimal() else step]
        if value is None:
            del place[last]
        else:
            place[int(last) if last.isdecimal() else last] = value

    return seed


def default(name: str, value: str) -> Fault:
    return lambda template: template["Parameters"][name].update(Default=value)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (default("ScheduleExpression", "cron(0 3 * * MON)"), "Retrain: .*must have 6 fields"),
        (default("ScheduleTimezone", "Europe/Berln"), "Retrain: .*Received: Europe/Berln"),
        (default("ScheduleState", "ENABLED"), "Retrain: State must be DISABLED"),
        (put("Retrain", "Target.Arn", "arn:aws:scheduler:::aws-sdk:batch:submitJobs"),
         "Retrain: the target must be aws-sdk:batch:submitJob"),
        (put("Retrain", "Target.RetryPolicy", None), "MaximumRetryAttempts .* Received: 185"),
        (put("Retrain", "Target.DeadLetterConfig", None), "DeadLetterConfig must name a queue"),
        (put("TrainDefinition", "ContainerProperties.ResourceRequirements.1.Value", "2048"),
         "TrainDefinition: Fargate has no 4 vCPU with 2048 MB"),
        (put("TrainDefinition", "ContainerProperties.ResourceRequirements.0.Value", "3"),
         "TrainDefinition: Fargate has no 3 vCPU"),
        (put("PredictDefinition", "ContainerProperties.ExecutionRoleArn", None),
         "PredictDefinition: ExecutionRoleArn must be there"),
        (put("PredictDefinition", "ContainerProperties.Privileged", True),
         "PredictDefinition: Privileged must not be there"),
        (put("PredictDefinition", "ContainerProperties.ReadonlyRootFilesystem", False),
         "ReadonlyRootFilesystem must be true"),
        (put("PredictDefinition", "RetryStrategy.Attempts", 50), "Attempts must be at most 3"),
        (put("PredictDefinition", "RetryStrategy.EvaluateOnExit", []), "must EXIT on 2 and 3"),
        (put("PredictDefinition", "Timeout.AttemptDurationSeconds", 10), "60 to 86400. Received: 10"),
        (put("PredictDefinition", "Timeout", None), "60 to 86400. Received: 0"),
        (put("PredictPolicy", "PolicyDocument.Statement.0.Action", ["s3:*"]), "not s3:[*]"),
        (put("PredictPolicy", "PolicyDocument.Statement.0.Action", "*"), "must be named, not [*]"),
        (put("TrainPolicy", "PolicyDocument.Statement.1.Action.1", "s3:DeleteObject"),
         "no job may delete: s3:DeleteObject"),
        (put("TrainPolicy", "PolicyDocument.Statement.1.Resource", "*"), "must be named, not [*]"),
        (put("TrainRole", "Policies", []), "policies must stand in an AWS::IAM::Policy"),
        (put("TrainRole", "ManagedPolicyArns", ["arn:aws:iam::aws:policy/AdministratorAccess"]),
         "must be a service role's. Received: .*AdministratorAccess"),
        (put("ModelsBucket", "PublicAccessBlockConfiguration.BlockPublicAcls", False),
         "ModelsBucket: PublicAccessBlockConfiguration"),
        (put("ModelsBucket", "BucketEncryption", None), "BucketEncryption must be there"),
        (put("ModelsBucket", "LifecycleConfiguration", None), "must abort incomplete uploads"),
    ],
)  # fmt: skip
def test_a_seeded_fault_is_found(template: dict[str, Any], seed: Fault, message: str) -> None:
    spoilt = copy.deepcopy(template)
    seed(spoilt)
    found = checks.faults(spoilt)
    assert found
    assert re.search(message, "\n".join(found))


def test_models_are_kept_in_versions_and_buckets_outlive_the_stack(
    template: dict[str, Any],
) -> None:
    assert properties(template, "ModelsBucket")["VersioningConfiguration"] == {"Status": "Enabled"}
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::S3::Bucket":
            assert resource["DeletionPolicy"] == "Retain", name


def test_the_commands_find_every_output_they_need(template: dict[str, Any]) -> None:
    assert set(stack.OUTPUTS) <= set(template["Outputs"])


def test_the_templates_schedule_asks_for_what_the_command_asks_for(
    template: dict[str, Any],
) -> None:
    target = properties(template, "Retrain")["Target"]
    assert target["RetryPolicy"] == schedule.RETRIES
    asked = json.loads(re.sub(r"\$\{\w+(::\w+)?\}", "x", target["Input"]["Fn::Sub"][0]))
    assert asked["ContainerOverrides"]["Command"] == stack.container_command(
        "train", ["s3://x/x", "--registry", "s3://x"], "--once", schedule.SCHEDULED_TIME
    )


def test_the_function_is_the_handler_and_answers_for_single_messages(
    template: dict[str, Any],
) -> None:
    function = properties(template, "UploadFunction")
    assert function["ImageConfig"]["Command"] == [f"{upload.__name__}.{upload.handler.__name__}"]
    source = properties(template, "UploadSource")
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    waits_s = properties(template, "Uploads")["VisibilityTimeout"]
    assert waits_s >= 6 * function["Timeout"], "as AWS advises"


# ---- What was deployed ------------------------------------------------------------------------


def test_what_was_deployed_is_there(cloud: Cloud) -> None:  # noqa: F811
    batch = cloud.client("batch")
    queues = {q["jobQueueName"] for q in batch.describe_job_queues()["jobQueues"]}
    assert queues == {"handful-on-demand", "handful-spot"}
    kinds = {
        e["computeResources"]["type"]
        for e in batch.describe_compute_environments()["computeEnvironments"]
    }
    assert kinds == {"FARGATE", "FARGATE_SPOT"}
    found = batch.describe_job_definitions()["jobDefinitions"]
    assert {d["jobDefinitionName"] for d in found} == {"handful-predict", "handful-train"}
    for definition in found:
        roles = {
            definition["containerProperties"][name] for name in ("jobRoleArn", "executionRoleArn")
        }
        assert len(roles) == 2
    (group,) = cloud.client("logs").describe_log_groups()["logGroups"]
    assert group["retentionInDays"] == 30


def mailbox(cloud: Cloud, rule: str) -> str:  # noqa: F811
    """Return the URL of a queue that gets what a rule lets through."""
    sqs = cloud.client("sqs")
    url = sqs.create_queue(QueueName="mail")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    target = {"Id": "mail", "Arn": arn["QueueArn"]}
    cloud.client("events").put_targets(Rule=rule, Targets=[target])
    return url


DEATH = {
    "jobName": "handful-train",
    "jobId": "1-2-3",
    "status": "FAILED",
    "statusReason": "Essential container in task exited",
    "container": {"exitCode": 137},
}


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        ({}, True),
        ({"container": {"exitCode": 1}}, True),
        ({"container": {}}, True),
        ({"container": {"exitCode": 2}}, False),
        ({"container": {"exitCode": 3}}, False),
        ({"container": {"exitCode": 4}}, False),
        ({"status": "SUCCEEDED"}, False),
        ({"arrayProperties": {"size": 3}}, True),
        ({"arrayProperties": {"index": 0}}, False),
        ({"jobQueue": "arn:aws:batch:us-east-1:123456789012:job-queue/elsewhere"}, False),
    ],
)
def test_deaths_without_a_word_are_told_and_others_are_not(
    cloud: Cloud,  # noqa: F811
    change: dict[str, Any],
    is_told: bool,
) -> None:
    events = cloud.client("events")
    events.remove_targets(Rule="handful-silent-deaths", Ids=["notices"])  # moto knows no topics
    url = mailbox(cloud, "handful-silent-deaths")
    entry = {
        "Source": "aws.batch",
        "DetailType": "Batch Job State Change",
        "Detail": json.dumps(DEATH | {"jobQueue": cloud.outputs["TrainQueue"]} | change),
    }
    events.put_events(Entries=[entry])
    found = cloud.client("sqs").receive_message(QueueUrl=url).get("Messages", [])
    assert bool(found) == is_told


@pytest.mark.parametrize("cloud", [{"OnUpload": "true"}], indirect=True)
def test_a_new_object_reaches_the_queue_of_the_function(cloud: Cloud) -> None:  # noqa: F811
    s3, events = cloud.client("s3"), cloud.client("events")
    photos = cloud.outputs["Photos"]
    (target,) = events.list_targets_by_rule(Rule="handful-uploads")["Targets"]
    (mapping,) = cloud.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert target["Arn"] == mapping["EventSourceArn"]
    assert mapping["FunctionArn"].endswith(":function:handful-upload")
    url = mailbox(cloud, "handful-uploads")  # moto's function would take the messages away
    s3.put_bucket_notification_configuration(  # in the template, but moto leaves it out
        Bucket=photos, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    s3.put_object(Bucket=photos, Key="new/a.png", Body=b"x")
    s3.put_object(Bucket=cloud.outputs["Results"], Key="live/a.json", Body=b"x")
    found = cloud.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert [json.loads(m["Body"])["detail"]["object"]["key"] for m in found] == ["new/a.png"]


# ---- Images -----------------------------------------------------------------------------------


def test_the_dockerfile_is_clean_for_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def chosen(target: str) -> set[str]:
    """Return the packages that an image's own sed takes from the requirements."""
    stage = DOCKERFILE.read_text("utf-8").split(f" AS {target}\n")[1]
    program = re.search(r"sed '([^']+)' requirements\.txt", stage)[1]
    done = subprocess.run(
        ["sed", program, ROOT / "requirements.txt"], capture_output=True, text=True, check=True
    )
    lines = [line.split("#")[0].strip() for line in done.stdout.splitlines()]
    return {re.split(r"[\[<>=~;]", line)[0] for line in lines if line}


def test_each_image_takes_what_it_needs_and_no_more() -> None:
    serving = {"numpy", "pillow", "ai-edge-litert", "boto3", "obstore"}
    training = {"tensorflow", "tensorflow-cpu", "keras", "matplotlib"}
    assert serving <= chosen("predict")
    assert serving | training <= chosen("train")
    assert not chosen("predict") & (training | {"gradio", "pytest", "moto"})
    assert not chosen("train") & {"gradio", "pytest", "moto"}


def test_images_are_pinned_and_run_as_nobody() -> None:
    text = DOCKERFILE.read_text("utf-8")
    assert re.findall(r"^FROM (?!base)(\S+)", text, re.MULTILINE) == re.findall(
        r"python:[\w.-]+@sha256:[0-9a-f]{64}", text
    )
    assert text.count("\nUSER 10001\n") == 2
    assert re.search(r"^ADD --checksum=sha256:[0-9a-f]{64}", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_install_lines_start_a_run_without_tensorflow(
    tmp_path: Path, hands: Path, trained: Path
) -> None:
    """Run the lines of the image `predict` in a fresh environment, and then the job in it."""
    stage = DOCKERFILE.read_text("utf-8").split(" AS predict\n")[1].split("\nCOPY lib")[0]
    (line,) = re.findall(r"^RUN (.*?)(?<!\\)$", stage, re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    path = {"PATH": f"{tmp_path / 'venv' / 'bin'}:{os.environ['PATH']}"}
    install = line.replace("\\\n", " ")
    subprocess.run(["sh", "-c", install], cwd=tmp_path, env=os.environ | path, check=True)
    for room in ("lib", "jobs"):
        shutil.copytree(ROOT / room, tmp_path / "app" / room)
    command = ["python", "-m", "jobs.container", "predict", str(hands), "out", "--model"]
    done = subprocess.run(
        [*command, str(trained / "cnn")],
        cwd=tmp_path / "app", env=path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "36 listed = 36 predicted + 0 errors" in done.stdout
    packages = subprocess.run(
        ["python", "-m", "pip", "list"], env=path, capture_output=True, text=True, check=True
    )
    assert not re.search("tensorflow|keras|torch|gradio", packages.stdout)
    started = subprocess.run(
        ["python", "-c", "import awslambdaric, jobs.upload"], cwd=tmp_path / "app", env=path
    )
    assert started.returncode == 0


# ---- infra/deploy -----------------------------------------------------------------------------

DOCKER = """#!/bin/sh
echo "$@" >> "$DOCKER_LOG"
case "$1" in login) cat > /dev/null;; esac
"""


@pytest.fixture
def deploy(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """What runs infra/deploy, with a docker that writes down what it is asked for."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_LOG", str(tmp_path / "asked"))

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / "infra" / "deploy", *argv]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def network() -> list[str]:
    given = {p["ParameterKey"]: p["ParameterValue"] for p in stack_parameters()}
    return ["--subnets", given["SubnetIds"], "--security-group", given["SecurityGroupId"]]


def test_a_dry_run_prints_every_step_and_does_none(deploy: Any, tmp_path: Path) -> None:
    done = deploy("--dry-run", "--on-upload", *network())
    assert done.returncode == 0, done.stderr
    for step in ("no fault", "docker build", "--target predict", "--target train", "docker push"):
        assert step in done.stderr
    assert not (tmp_path / "asked").exists()
    import boto3

    assert boto3.client("cloudformation").list_stacks()["StackSummaries"] == []


def test_a_deployment_creates_the_stack_and_pushes_both_images(deploy: Any, tmp_path: Path) -> None:
    done = deploy(*network())
    assert done.returncode == 0, done.stderr
    assert stack.find("handful")["TrainDefinition"] == "handful-train"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["login", "build", "push"] * 2
    pushed = {line.rsplit("/", 1)[1].split("-")[0] for line in asked if line.startswith("push")}
    assert pushed == {"handful:predict", "handful:train"}


def test_a_new_stack_without_a_network_is_refused(deploy: Any) -> None:
    done = deploy()
    assert done.returncode == 2
    assert "a new stack needs --subnets and --security-group" in done.stderr


def test_destroying_says_what_stays(deploy: Any, cloud: Cloud) -> None:  # noqa: F811
    done = deploy("destroy", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "its buckets stay: handful-photos-" in done.stderr
    done = deploy("destroy", "--dry-run", "--buckets")
    assert "its buckets go, too: handful-photos-" in done.stderr
    assert deploy("destroy", "--stack", "none").returncode == 2

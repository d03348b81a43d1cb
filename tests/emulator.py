"""AWS as the cloud's tests need it: moto's server with the template deployed, Batch jobs that are
real processes under their role's own credentials, and IAM that truly refuses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.batch_simple.models import BatchSimpleBackend
from moto.core import config as moto_config

from tests.permissions import let_iam_decide_after

ROOT = Path(__file__).parents[1]

ADMIN = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}


class Cloud:
    """The deployed stack: its outputs, and what the jobs that ran in it said.

    Args:
        endpoint: the URL of moto's server.
        deaths: the (array index, attempt) of jobs whose process is killed while it works.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.outputs: dict[str, str] = {}
        self.deaths: set[tuple[str, int]] = set()
        self.processes: list[tuple[str, int, int, str]] = []
        """Of each process: array index, attempt, exit code, what it wrote."""
        self._threads: dict[str, threading.Thread] = {}
        self._taken: dict[str, dict[str, str]] = {}

    def client(self, service: str) -> Any:
        """Return a client with the credentials of the tests."""
        return boto3.Session().client(service)

    def assume(self, role_arn: str) -> dict[str, str]:
        """Return the settings of a process that has a role, as ECS gives them to a task."""
        if role_arn not in self._taken:
            found = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="job")
            self._taken[role_arn] = {
                "AWS_ACCESS_KEY_ID": found["Credentials"]["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": found["Credentials"]["SecretAccessKey"],
                "AWS_SESSION_TOKEN": found["Credentials"]["SessionToken"],
            }
        return self._taken[role_arn]

    def enforce(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let IAM decide from here on; the tests themselves become an administrator."""
        iam = self.client("iam")
        iam.create_user(UserName="admin")
        iam.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=json.dumps(ADMIN))
        for role in ("TrainRole", "PredictRole"):
            self.assume(self.outputs[role])  # ECS may; an administrator is not trusted by the role
        key = iam.create_access_key(UserName="admin")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        let_iam_decide_after(self.endpoint, b"0")

    @contextmanager
    def unguarded(self) -> Iterator[None]:
        """Let IAM look away: moto refuses good signatures of requests that have a query."""
        let_iam_decide_after(self.endpoint, b"inf")
        yield
        let_iam_decide_after(self.endpoint, b"0")

    def wait(self) -> None:
        """Wait until every job has ended."""
        for thread in list(self._threads.values()):
            thread.join()

    def run_job(self, job: Any) -> None:
        """Do what AWS Batch does with a job that was submitted, in the background."""
        is_array = "size" in job.array_properties
        work = self._end_array if is_array else self._run
        thread = threading.Thread(target=work, args=(job,), daemon=True)
        self._threads[job.job_id] = thread
        thread.start()

    def _end_array(self, job: Any) -> None:
        for job_id, thread in list(self._threads.items()):
            if job_id.startswith(f"{job.job_id}:"):
                thread.join()
        job._mark_stopped(success=all(c.status == "SUCCEEDED" for c in job._child_jobs))

    def _run(self, job: Any) -> None:
        strategy = job.job_definition.retry_strategy
        n_attempts = int(strategy["attempts"])
        for attempt in range(1, n_attempts + 1):
            job._start_attempt()
            with _ONE_AT_A_TIME:
                code = self._attempt(job, attempt)
            job._stop_attempt()
            if code == 0 or _is_final(code, strategy.get("evaluateOnExit", [])):
                break
        job.exit_code = code
        job._mark_stopped(success=code == 0)

    def _attempt(self, job: Any, attempt: int) -> int:
        command = job._add_parameters_to_command(job._get_container_property("command", []))
        index = str(job.array_properties.get("index", ""))
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment(job, index, attempt),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if (index, attempt) in self.deaths:
            process.stdout.readline()  # it is at work
            process.kill()
        said = process.communicate()[0]
        code = 128 - process.returncode if process.returncode < 0 else process.returncode
        self.processes.append((index, attempt, code, said))
        return code

    def _environment(self, job: Any, index: str, attempt: int) -> dict[str, str]:
        given = job._get_container_property("environment", [])
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", "/"),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_BATCH_JOB_ID": job.job_id,
            "AWS_BATCH_JOB_ATTEMPT": str(attempt),
            **({"AWS_BATCH_JOB_ARRAY_INDEX": index} if index else {}),
            **{item["name"]: item["value"] for item in given},
            **self.assume(job.job_definition.container_properties["jobRoleArn"]),
        }


_ONE_AT_A_TIME = threading.Lock()


def _is_final(code: int, rules: list[dict[str, str]]) -> bool:
    """Tell whether the first rule that matches says EXIT; without any, Batch tries again."""
    for rule in rules:
        if rule.get("onExitCode") == str(code):
            return rule["action"].upper() == "EXIT"
    return False


def stack_parameters(**more: str) -> list[dict[str, str]]:
    """Return the parameters of the template, with a subnet and a group that moto has."""
    ec2 = boto3.client("ec2")
    subnets = ec2.describe_subnets()["Subnets"]
    given = {
        "SubnetIds": ",".join(subnet["SubnetId"] for subnet in subnets[:2]),
        "SecurityGroupId": ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"],
        **more,
    }
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]


@pytest.fixture
def cloud(
    s3: Any, s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Cloud]:
    """The template, deployed; a test may hand in parameters of its own."""
    cloud = Cloud(s3_server)
    for service in ("batch", "lambda"):
        monkeypatch.setitem(moto_config.default_user_config, service, {"use_docker": False})

    def submitted(backend: Any, include_start_attempt: bool, job: Any) -> None:
        backend.backend._jobs[job.job_id] = job
        job.job_started_at = datetime.now()
        job.status = "RUNNING"
        cloud.run_job(job)

    monkeypatch.setattr(BatchSimpleBackend, "_mark_job_as_finished", submitted)
    formation = cloud.client("cloudformation")
    formation.create_stack(
        StackName="handful",
        TemplateBody=(ROOT / "infra" / "template.yaml").read_text("utf-8"),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=stack_parameters(**getattr(request, "param", {})),
    )
    (stack,) = formation.describe_stacks(StackName="handful")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    cloud.outputs = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
    # moto takes these resources for done without making them.
    cloud.client("scheduler").create_schedule_group(Name="handful")
    yield cloud
    cloud.wait()
    let_iam_decide_after(s3_server, b"inf")

"""TorchServe's workflows: `/workflows`, on the workflows of the registry (TorchServe reference §4.6)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flowyard.platform.archives.remote import is_remote
from flowyard.platform.http.torchserve.answers import Answer, json_answer, status_answer
from flowyard.platform.http.torchserve.entries import NO_VERSION, NODE, Models
from flowyard.platform.http.torchserve.errors import (
    NO_METHOD,
    DownloadError,
    InvalidDagError,
    WorkflowFileExistsError,
    WorkflowNotFoundError,
    WorkflowStartError,
)
from flowyard.platform.http.torchserve.pages import slice_of
from flowyard.platform.http.torchserve.parameters import Parameters, of_json, of_query
from flowyard.platform.http.torchserve.registrations import reason_of
from flowyard.platform.http.torchserve.requests import HttpRequest
from flowyard.platform.http.torchserve.urls import is_file_url, is_web_or_file, taken_name
from flowyard.platform.registry.deployment import FUNCTIONS
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.precedence import RESPONSE_TIMEOUT, STARTUP_TIMEOUT
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.request import Request
from flowyard.schemas.errors import (
    AlreadyRegisteredError,
    ConflictError,
    DeadlineError,
    FlowyardError,
    ForbiddenError,
    InvalidRequestError,
    InvalidWorkflowError,
    MethodNotAllowedError,
    ModelNotFoundError,
    TooLargeError,
    UnavailableError,
)
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.plan import Plan, Step
from flowyard.workflows.torchserve import CYCLE, SELF_LOOP, SEVERAL_STARTS

#: The node whose value is the answer; the original has none.
OUT = "out"

_DOWNLOAD_ERRORS = (InvalidRequestError, ForbiddenError, ModelNotFoundError, UnavailableError, DeadlineError, TooLargeError)


class WorkflowInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A workflow in full; `workflow_dag` is Java's text of a map of lists."""

    workflow_name: str
    workflow_url: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    workflow_dag: str


class WorkflowItem(msgspec.Struct, frozen=True, rename="camel"):
    """A workflow in a list."""

    workflow_name: str
    workflow_url: str


class WorkflowList(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A page of workflows."""

    next_page_token: str | msgspec.UnsetType = msgspec.UNSET
    workflows: list[WorkflowItem]


class Workflows:
    """Answers `/workflows`.

    Args:
        registry: Where workflows are.
        models: Finds them.
    """

    def __init__(self, registry: Registry, models: Models) -> None:
        self._registry = registry
        self._settings = registry.settings
        self._models = models

    async def answer(self, request: HttpRequest, names: Sequence[str]) -> Answer:
        """Answers a request; what follows a name is not looked at.

        Raises:
            FlowyardError: It cannot be done.
        """
        match request.method, names:
            case "GET", []:
                return self._list(of_query(request.query))
            case "POST", []:
                is_json = request.media_type == "application/json"
                return await self._register(of_json(request.body) if is_json else of_query(request.query))
            case "GET", [name, *_]:
                return json_answer([self._describe(self._models.workflow(name))])
            case "DELETE", [name, *_]:
                record = self._models.workflow(name).record
                await self._registry.unregister(record.name, record.version)
                return status_answer(f'Workflow "{name}" unregistered')
        raise MethodNotAllowedError(NO_METHOD)

    def _list(self, given: Parameters) -> Answer:
        items = [WorkflowItem(entry.record.name, self._url(entry)) for entry in self._models.workflows()]
        found, token = slice_of(items, given)
        return json_answer(WorkflowList(workflows=list(found), next_page_token=msgspec.UNSET if token is None else token))

    def _url(self, entry: Entry) -> str:
        store = f"{self._store}/" if self._store else ""
        return entry.record.url.removeprefix(store)

    @property
    def _store(self) -> str:
        return self._settings.workflow_store or self._settings.model_store or ""

    def _describe(self, entry: Entry) -> WorkflowInfo:
        record = entry.record
        pools = {key: pool for key, pool in entry.attempt.pools.items() if key != FUNCTIONS} if entry.attempt else {}
        first = next(iter(pools.values()), None)
        groups = list(first.groups) if first is not None else []
        return WorkflowInfo(
            workflow_name=record.name,
            workflow_url=self._url(entry),
            min_workers=sum(group.min for group in groups) or 1,
            max_workers=sum(group.max for group in groups) or 1,
            batch_size=first.spec.policy.batch_size if first is not None else 1,
            max_batch_delay=round(first.spec.policy.batch_delay_s * 1000) if first is not None else 50,
            workflow_dag=dag_text(entry.attempt.plan) if entry.attempt is not None else "{}",
        )

    async def _register(self, given: Parameters) -> Answer:
        url = given.text("url")
        if url is None:
            raise InvalidRequestError("Parameter url is required.")
        place = self._checked_url(url)
        name = given.text("workflow_name") or ""
        timeouts = {RESPONSE_TIMEOUT: given.integer("response_timeout"), STARTUP_TIMEOUT: given.integer("startup_timeout")}
        options = {key: str(value) for key, value in timeouts.items() if value is not None and value >= 0}
        asked = Request(url=place, name=name, kind="workflow", spec=ModelSpec(options=options))
        try:
            entry = await self._registry.register(asked)
        except AlreadyRegisteredError as error:
            raise ConflictError(f"Workflow {error.name} is already registered.") from None
        except FlowyardError as error:
            raise self._refusal(error, url) from None
        return status_answer(f"Workflow {entry.record.name} has been registered and scaled successfully.")

    def _checked_url(self, url: str) -> str:
        """Where a workflow's URL leads: an archive in the workflow store, or a remote one that the settings allow."""
        if not url:
            raise WorkflowNotFoundError("Workflow not found at: ")
        if ".." in url:
            raise WorkflowNotFoundError(f"Relative path is not allowed in url: {url}")
        if is_web_or_file(url):
            if is_file_url(url) or not self._registry.allows_url(url):
                raise WorkflowNotFoundError(f"Given URL {url} does not match any allowed URL(s)")
            taken = taken_name(url, self._store, self._registry.endpoints)
            if taken is not None:
                raise WorkflowFileExistsError(taken)
            return url
        inside = url.removeprefix(f"{self._store}/")
        if not self._store or "/" in inside or not inside.strip():
            raise WorkflowNotFoundError(f"Workflow not found in workflow store: {url}")
        return f"{self._store}/{inside}"

    @staticmethod
    def _refusal(error: FlowyardError, url: str) -> FlowyardError:
        if error.starting is not None and NODE in error.starting[0]:
            workflow = error.starting[0].split(NODE)[0]
            told = f"Failed to start workers for model {error.starting[0]} version: {error.starting[1] or NO_VERSION}"
            return WorkflowStartError(f"Workflow {workflow} has failed to register. Failures: [{told}]", reason_of(error))
        if is_remote(url) and isinstance(error, _DOWNLOAD_ERRORS):
            return DownloadError(f"Failed to download archive from: {url}")
        if isinstance(error, ModelNotFoundError):
            return WorkflowNotFoundError(f"Workflow not found in workflow store: {url}")
        if isinstance(error, InvalidWorkflowError):
            return _told_refusal(error)
        return error


def _told_refusal(error: InvalidWorkflowError) -> FlowyardError:
    """The original's words for a graph that is none, where one of the problems begins with them."""
    for problem in error.problems:
        for words in (SEVERAL_STARTS, SELF_LOOP, CYCLE):
            if problem.message.startswith(words):
                return InvalidDagError(words)
    return error


def dag_text(plan: Plan) -> str:
    """The graph as Java writes a map of lists: `{pre=[inc], inc=[post]}`."""
    followers: dict[str, list[str]] = {}
    for step in plan.steps:
        node = _node_of(plan, step)
        for dep in step.deps:
            before = _node_of(plan, plan.steps[dep])
            if node.name not in (before.name, OUT):
                followers.setdefault(before.name, []).append(node.name)
    return "{" + ", ".join(f"{name}=[{', '.join(dict.fromkeys(after))}]" for name, after in followers.items()) + "}"


def _node_of(plan: Plan, step: Step) -> Step:
    """The node that a nested step belongs to."""
    while step.parent >= 0:
        step = plan.steps[step.parent]
    return step

"""From an archive in the store to a checked plan."""

from __future__ import annotations

import difflib
import functools
from pathlib import Path

import msgspec
import structlog

from flowyard.engines.torchserve.folder import Manifest, find_manifest
from flowyard.platform.archives.names import check_name, infer_model_name
from flowyard.platform.archives.remote import url_arguments
from flowyard.platform.archives.store import StoredArchive
from flowyard.platform.registry.adapters import adapter_problems
from flowyard.platform.registry.checking import check_place, read_text
from flowyard.platform.registry.deployment import registered_pool
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.layout import WORKFLOW_FILES, WorkflowPlace, find_workflow, locate_model_dir
from flowyard.platform.registry.request import Request
from flowyard.platform.registry.sequences import cache_problems
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidModelError, InvalidRequestError, InvalidWorkflowError, Problem, UserError
from flowyard.workflows.check import Checked
from flowyard.workflows.plan import Plan, Registered, single_model_plan

log = structlog.stdlib.get_logger(__name__)


class Compiler:
    """Checks and compiles what is in an archive: its workflow file, or else the one model it holds.

    Args:
        settings: Where the model store is.
        endpoints: What a workflow may refer to.
    """

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        self._settings = settings
        self._endpoints = endpoints

    def compile(self, request: Request, stored: StoredArchive, *, is_new: bool = True) -> tuple[Plan, str]:
        """Checks and compiles an archive.

        Args:
            request: What is to be registered.
            stored: Its archive.
            is_new: Whether it is registered for the first time: then what it expects to find on the server must be there.

        Returns:
            The plan, and whether it is a workflow or a model.

        Raises:
            UserError: It is refused; every problem of a workflow file is named.
        """
        place = find_workflow(stored.folder)
        if place is not None:
            return self._checked_plan(request, place, stored, is_new=is_new), "workflow"
        if request.kind == "workflow":
            wanted = ", ".join(WORKFLOW_FILES)
            raise InvalidRequestError(f"no workflow in {request.url}: none of {wanted} at its root; a model goes to POST /models")
        manifest = _manifest(stored)
        name = request.name or manifest.name or _model_name(request)
        arguments = url_arguments(request.url) | request.spec.arguments
        spec = msgspec.structs.replace(request.spec, url=stored.filename or ".", arguments=arguments)
        plan = single_model_plan(check_name(name), spec)
        return msgspec.structs.replace(plan, version=manifest.version), "model"

    def _checked_plan(self, request: Request, place: WorkflowPlace, stored: StoredArchive, *, is_new: bool) -> Plan:
        """The plan of a workflow file; what a new one expects to find on the server must be there."""
        folder = stored.folder
        file = place.file.relative_to(folder).as_posix()
        text = locate_model_dir(read_text(place), request.url, alone=bool(stored.filename))
        # What has been registered has its models in the archive store, whatever has become of the model store since.
        store = Path(self._settings.model_store) if self._settings.model_store and is_new else None
        checked = check_place(place, folder, file, text=text, name=request.name, store=store, is_store_known=is_new)
        if is_new:
            checked = checked.with_problems(self._missing(checked, file))
        if checked.plan is None:
            raise InvalidWorkflowError(checked.problems)
        for problem in checked.problems if is_new else ():
            log.warning("workflow", name=checked.plan.name, problem=str(problem))
        return checked.plan

    def _missing(self, checked: Checked, shown: str) -> list[Problem]:
        """What a workflow expects of the server and would not find there."""
        found = [self._missing_reference(reference, shown) for reference in checked.references]
        problems = [problem for problem in found if problem is not None]
        if checked.plan is not None and not problems:
            problems = cache_problems(checked.plan, functools.partial(self._keeps_sequences, checked.plan), shown)
        return problems + (adapter_problems(checked.definition, shown) if checked.definition is not None else [])

    def _keeps_sequences(self, plan: Plan, key: str) -> bool:
        """Whether a model of a workflow is a registered one that keeps sequences."""
        reference = plan.models[key].model
        return bool(reference) and bool(registered_pool(self._endpoints.route, reference, {}).spec.sequence_header)

    def _missing_reference(self, reference: Registered, shown: str) -> Problem | None:
        name, _, version = reference.name.partition(":")
        try:
            if reference.kind == "model":
                registered_pool(self._endpoints.route, reference.name, {})
            else:
                self._endpoints.versions(name, version or None)
        except UserError as error:
            near = difflib.get_close_matches(name, self._endpoints.names(), n=1)
            return Problem(
                message=error.message,
                file=shown,
                line=reference.line,
                column=reference.column,
                name=reference.name,
                nearest=near[0] if near else "",
                fix=f'did you mean "{near[0]}"?' if near else f"register the {reference.kind} first",
            )
        return None


def _model_name(request: Request) -> str:
    if not request.infer_name:
        raise InvalidModelError("Model name is not defined.")
    if request.upload is None:
        return infer_model_name(request.url)
    if not request.filename:
        raise InvalidRequestError("Parameter model_name is required: the upload has no file name to take it from.")
    return infer_model_name(request.filename)


def _manifest(stored: StoredArchive) -> Manifest:
    """What the manifest of a TorchServe or MMS archive says, an empty one where there is none."""
    found = find_manifest(stored.folder / stored.filename)
    return found[1] if found is not None else Manifest()

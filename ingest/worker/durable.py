"""Jobs as durable workflows of DBOS, with its tables in the catalog's own database.

The executor id is the worker's name: DBOS 3.4 gives a dead executor's workflows back at a launch under the same id only, and
then to the queue they came from. So every worker has a queue of its own, which nobody else listens to. The application
version is a constant: workflows of another version would never be taken up again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID
from dbos._serialization import Serializer

from atlas.catalog import Catalog
from atlas.catalog.faults import translated
from atlas.catalog.jobs import Claim

APPLICATION = "circuit-atlas"
VERSION = "1"  # of the steps below, not of the program: a change of the steps needs a new one
MAX_RECOVERIES = 10
_GOING_ON = {"ENQUEUED", "PENDING", "DELAYED"}
_POLL = 0.1  # seconds between looks into the own queue

Outcome = dict[str, Any]


class Json(Serializer):
    """What DBOS keeps is JSON: its own default is pickle, which would run code from the database."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=repr)

    def deserialize(self, serialized_data: str) -> Any:  # type: ignore[override]
        return json.loads(serialized_data)

    def name(self) -> str:
        return "atlas_json"


class Durable:
    """DBOS, launched as the executor `worker`. One in a process."""

    def __init__(
        self,
        catalog: Catalog,
        worker: str,
        do: Callable[[str, int], Outcome],
        end: Callable[[str, int, Outcome], None],
    ) -> None:
        """do: the work of (job id, attempt), repeated after a kill; end: writes how it ended, once."""
        url = f"sqlite:///{catalog.file}" if catalog.is_sqlite else catalog.url.render_as_string(hide_password=False)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": url,
            "application_version": VERSION,
            "executor_id": worker,
            "serializer": Json(),
            "use_listen_notify": False,
            "sys_db_pool_size": 4,
            "max_executor_threads": 4,
            "log_level": "ERROR",
        }
        DBOS(config=config)

        @DBOS.step(name="do")
        def do_step(job_id: str, attempt: int) -> Outcome:
            return do(job_id, attempt)

        @DBOS.step(name="end")
        def end_step(job_id: str, attempt: int, outcome: Outcome) -> None:
            end(job_id, attempt, outcome)

        @DBOS.workflow(name="job", max_recovery_attempts=MAX_RECOVERIES)
        def job(job_id: str, attempt: int) -> None:
            end_step(job_id, attempt, do_step(job_id, attempt))

        self._job = job
        self._queue_name = f"worker-{worker}"
        DBOS.listen_queues([self._queue_name])
        try:
            with translated(catalog.place), catalog.lock("dbos"):
                DBOS.launch()
                self._queue = DBOS.register_queue(
                    self._queue_name, worker_concurrency=1, polling_interval_sec=_POLL, on_conflict="always_update"
                )
        except BaseException:
            self.close()
            raise

    def begin(self, claim: Claim) -> None:
        """Run the claim, unless DBOS has it already: after a kill it goes on by itself."""
        if DBOS.get_workflow_status(claim.workflow) is None:
            with SetWorkflowID(claim.workflow):
                self._queue.enqueue(self._job, claim.id, claim.attempt)

    def ended_as(self, claim: Claim) -> str | None:
        """How the workflow ended, None while it waits or runs."""
        status = DBOS.get_workflow_status(claim.workflow)
        return status.status if status is not None and status.status not in _GOING_ON else None

    def close(self) -> None:
        DBOS.destroy(destroy_registry=True)

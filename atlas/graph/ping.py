"""Whether a graph server answers, asked quickly: for health checks, which must not wait through the driver's retries."""

from __future__ import annotations

import neo4j
from neo4j import exceptions

from atlas.settings import Settings


def answers(settings: Settings, seconds: float) -> bool:
    """True when the server at `settings.graph_url` takes the password and answers a query within about `seconds`."""
    try:
        with neo4j.GraphDatabase.driver(
            settings.graph_url,
            auth=(settings.graph_user, settings.graph_password.get_secret_value()),
            connection_timeout=seconds,
            connection_acquisition_timeout=seconds,
            max_transaction_retry_time=0,
            notifications_min_severity="OFF",
            user_agent="circuit-atlas",
        ) as driver:
            query = neo4j.Query("RETURN 1 AS one", timeout=seconds)  # type: ignore[arg-type]
            with driver.session(database=settings.graph_database or None) as session:
                return session.run(query).single(strict=True)["one"] == 1
    except (exceptions.DriverError, exceptions.Neo4jError, OSError, ValueError):
        return False

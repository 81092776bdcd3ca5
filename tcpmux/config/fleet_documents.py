"""What may be in a document of a fleet: routes, and nothing by which a host is run. Private to the
package."""

from __future__ import annotations

from tcpmux.config.document import Document
from tcpmux.config.schema import FileModel


def is_of_fleet(document: Document, model: FileModel) -> bool:
    """Whether it is one; else what is wrong is noted. Whoever may write into etcd may not say as
    whom a host runs, where it logs, or what program it starts."""
    found = len(document.problems)
    for key in sorted(model.model_fields_set - {"routes"}):
        document.problem(
            (key,),
            f"{key} can't be in a document of the fleet, which has routes alone: it belongs into "
            "the file of each host",
            document.key_mark((key,)),
        )
    for r, route in enumerate(model.routes):
        if route.rollout is not None and "hooks" in route.rollout.model_fields_set:
            document.problem(
                ("routes", r, "rollout", "hooks"),
                "hooks can't be in a document of the fleet: only the file of a host says what it "
                "asks, and what it starts",
            )
    return len(document.problems) == found

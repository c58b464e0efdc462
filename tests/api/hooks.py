"""What schemathesis is kept from: waiting as long as the API lets it, and taking a part of a manifest for JSON."""
import re

import schemathesis

TAKEN = re.compile(r"[0-9]{1,4}[smh]?")


def shortened(wait):
    """A wait that the daemon takes is made one of a second."""
    if isinstance(wait, int) and not isinstance(wait, bool) and wait > 1:
        return 1 if wait <= 3600 else wait
    # An empty one counts as none: then it is the daemon's own minute.
    if isinstance(wait, str) and (not wait or TAKEN.fullmatch(wait) and wait != "0"):
        return "1s"
    return wait


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = case.operation.definition.raw.get("operationId")
    if operation == "waitForArtifact" and "timeout" not in (case.query or {}):
        case.query = {**(case.query or {}), "timeout": "1s"}
    for values, name in [(case.query, "timeout"), (case.query, "wait"), (case.body, "wait")]:
        if isinstance(values, dict) and name in values:
            values[name] = shortened(values[name])
    if operation == "getManifest" and case.headers:
        case.headers.pop("Range", None)

"""Whether an object on the API server is still as we want it, defaults and other managers' fields aside. Pure.

Two tests together: our fingerprint in an annotation tells that we applied exactly this, and a comparison of the fields
tells that nobody changed one since. Either alone would miss a field that we no longer set, or an edit by hand.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from datamodel.errors import UserError
from datamodel.quantity import parse_bytes
from kube.objects import Object, annotations_of

ANNOTATION = "headrace.io/desired"


def with_fingerprint(body: Object) -> Object:
    """*body* with an annotation that changes with it."""
    text = json.dumps(body, sort_keys=True)
    annotations = {**annotations_of(body), ANNOTATION: hashlib.sha256(text.encode()).hexdigest()[:16]}
    return {**body, "metadata": {**body["metadata"], "annotations": annotations}}


def is_as_wanted(found: Object, wanted: Object) -> bool:
    """Whether *found* has all that *wanted* (with its fingerprint) says."""
    return _covers(found, wanted)


def _covers(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        # The API server leaves out fields that are set to their zero value.
        return all(_covers((found or {}).get(key), value) for key, value in wanted.items()) if _is_map(found) else False
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if not wanted:
            return not found
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != len(wanted):
            return False
        return all(_covers(one, other) for one, other in zip(found, wanted, strict=True))
    if found == wanted or (not found and not wanted):
        return True
    return _is_same_quantity(found, wanted)


def _is_map(found: Any) -> bool:
    return found is None or isinstance(found, Mapping)


def _is_same_quantity(found: Any, wanted: Any) -> bool:
    """The API server rewrites quantities: 1024Mi comes back as 1Gi."""
    if not isinstance(found, str | int) or not isinstance(wanted, str | int):
        return False
    try:
        return parse_bytes("", str(found)) == parse_bytes("", str(wanted))
    except UserError:
        return False

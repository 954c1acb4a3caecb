"""CustomResourceDefinitions out of the message types of this room, so that code and cluster can't disagree.

Pure: returns values; `scripts/generate-crds` writes them. Descriptions are the docstrings of classes and fields.
"""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as shapes

from datamodel.alluxio import AlluxioRuntime
from datamodel.cacheruntime import CacheRuntime, CacheRuntimeClass
from datamodel.dataset import Dataset
from datamodel.names import GROUP, VERSION

Schema = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`; *priority* above 0 shows it only with -o wide."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True)
class Definition:
    """What is to be known about one kind beside its fields."""

    shape: type[msgspec.Struct]
    plural: str
    columns: tuple[Column, ...] = ()
    short_names: tuple[str, ...] = ()
    is_namespaced: bool = True
    subresources: Mapping[str, Any] = field(default_factory=lambda: {"status": {}})


def _replica_columns(title: str, part: str) -> tuple[Column, ...]:
    return (
        Column(f"Ready {title}s", f".status.{part}NumberReady", "integer", 10),
        Column(f"Desired {title}s", f".status.desired{part.capitalize()}NumberScheduled", "integer", 10),
        Column(f"{title} Phase", f".status.{part}Phase"),
    )


AGE = ".metadata.creationTimestamp"
DEFINITIONS = (
    Definition(
        Dataset,
        "datasets",
        (
            Column("Ufs Total Size", ".status.ufsTotal"),
            Column("Cached", ".status.cacheStates.cached"),
            Column("Cache Capacity", ".status.cacheStates.cacheCapacity"),
            Column("Cached Percentage", ".status.cacheStates.cachedPercentage"),
            Column("Phase", ".status.phase"),
            Column("HCFS URL", ".status.hcfs.endpoint", priority=10),
            Column("TOTAL FILES", ".status.fileNum", priority=11),
            Column("CACHE HIT RATIO", ".status.cacheStates.cacheHitRatio", priority=10),
            Column("AGE", AGE, "date"),
        ),
        ("dataset",),
    ),
    Definition(
        AlluxioRuntime,
        "alluxioruntimes",
        (
            *_replica_columns("Master", "master"),
            *_replica_columns("Worker", "worker"),
            *_replica_columns("Fuse", "fuse"),
            Column("API Gateway", ".status.apiGateway.endpoint", priority=10),
            Column("Age", AGE, "date"),
        ),
        ("alluxio",),
        subresources={
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.currentWorkerNumberScheduled",
                "labelSelectorPath": ".status.selector",
            },
        },
    ),
    Definition(CacheRuntime, "cacheruntimes", (Column("Age", AGE, "date"), Column("Status", ".status.phase"))),
    Definition(CacheRuntimeClass, "cacheruntimeclasses", is_namespaced=False, subresources={}),
)


def crd(definition: Definition) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    kind = definition.shape.__name__
    schema = schema_of(definition.shape)
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": f"Version of the schema: {GROUP}/{VERSION}."},
        "kind": {"type": "string", "description": f"Kind of the object: {kind}."},
        "metadata": {"type": "object"},
        **schema["properties"],
    }
    version: dict[str, Any] = {"name": VERSION, "served": True, "storage": True}
    if definition.columns:
        version["additionalPrinterColumns"] = [_column(column) for column in definition.columns]
    version["schema"] = {"openAPIV3Schema": schema}
    if definition.subresources:
        version["subresources"] = dict(definition.subresources)
    names: dict[str, Any] = {
        "categories": ["fluid"],
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": definition.plural,
        "singular": kind.lower(),
    }
    if definition.short_names:
        names["shortNames"] = list(definition.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{definition.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced" if definition.is_namespaced else "Cluster",
            "versions": [version],
        },
    }


def schema_of(shape: Any) -> Schema:
    """OpenAPI v3 structural schema of a struct type, or of any type a field may have."""
    return _schema(shapes.type_info(shape))


def _column(column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**shown, "priority": column.priority} if column.priority else shown


def _schema(info: shapes.Type) -> Schema:
    if isinstance(info, shapes.Metadata):
        return _annotated(_schema(info.type), info.extra_json_schema or {})
    if isinstance(info, shapes.StructType):
        return _struct(info)
    if isinstance(info, shapes.UnionType):
        kinds = [kind for kind in info.types if not isinstance(kind, shapes.NoneType)]
        # The only union with two real members is a quantity, told by its annotation.
        return _schema(kinds[0]) if len(kinds) == 1 else {}
    if isinstance(info, shapes.DictType):
        return {"type": "object", "additionalProperties": _schema(info.value_type)}
    if isinstance(info, shapes.VarTupleType):
        return {"type": "array", "items": _schema(info.item_type), **_bounds(minItems=info.min_length)}
    if isinstance(info, shapes.LiteralType):
        return {"type": "string", "enum": list(info.values)}
    if isinstance(info, shapes.StrType):
        return {"type": "string", **_bounds(minLength=info.min_length)}
    if isinstance(info, shapes.IntType):
        return {"type": "integer", **_bounds(minimum=info.ge)}
    if isinstance(info, shapes.BoolType):
        return {"type": "boolean"}
    if isinstance(info, shapes.AnyType):
        return {}
    raise TypeError(f"no schema for {info}")


def _bounds(**bounds: int | None) -> Schema:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _annotated(schema: Schema, extra: Mapping[str, Any]) -> Schema:
    merged = {**schema, **extra}
    if extra.get("x-kubernetes-preserve-unknown-fields"):
        merged.pop("additionalProperties", None)
    if extra.get("x-kubernetes-int-or-string"):
        merged["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return merged


def _struct(info: shapes.StructType) -> Schema:
    properties: dict[str, Schema] = {}
    docs = _field_docs(info.cls)
    hints = get_type_hints(info.cls, include_extras=True)
    for item in info.fields:
        described = {"description": docs[item.name]} if item.name in docs else {}
        schema = {**described, **_schema(item.type)}
        if "enum" in schema:
            schema["enum"] = _literals(hints[item.name])
        properties[item.encode_name] = schema
    result: Schema = {"type": "object"}
    if info.cls.__doc__:
        result["description"] = info.cls.__doc__
    if properties:
        result["properties"] = properties
    required = sorted(item.encode_name for item in info.fields if item.required)
    return {**result, "required": required} if required else result


def _literals(hint: Any) -> list[str]:
    """Values of the Literal in a type hint, in the order written, which is the order in the API server's refusals."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return next((found for part in get_args(hint) if (found := _literals(part))), [])


@cache
def _field_docs(shape: type) -> Mapping[str, str]:
    """The string under each field of a class and of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(shape.__mro__):
        if base.__module__.startswith("datamodel."):
            docs.update(_own_field_docs(base))
    return docs


def _own_field_docs(shape: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(shape))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = str(following.value.value)
    return docs

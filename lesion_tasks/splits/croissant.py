"""A manifest -> its description as Croissant JSON-LD, which lists of data sets and their loaders read.

Croissant 1.0, https://docs.mlcommons.org/croissant/docs/croissant-spec.html. The rows are the manifest's own Parquet
file, which names each picture by key and SHA-256; the pictures themselves are no part of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.metrics.counted import plural
from lesion_tasks.splits.manifest import COLUMNS, SOURCES, find_manifest, read_table

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
# The archive's names of licences -> their texts; https://www.isic-archive.com has these three.
LICENCE_TEXTS = {
    "CC-0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-NC": "https://creativecommons.org/licenses/by-nc/4.0/",
}
_TYPES = {"text": "sc:Text", "int": "sc:Integer", "float": "sc:Float", "bool": "sc:Boolean"}
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def manifest_as_croissant(connection: Connection, bucket: Bucket, digest: str) -> dict[str, Any]:
    """Describe a manifest, whose rows are held against their digest. Raises `UnusableInputError` if there is none."""
    manifest = find_manifest(connection, digest)
    table = read_table(bucket, manifest.object_key)
    name = manifest.object_key.rpartition("/")[2]
    attributions = sorted(filter(None, table["attribution"].unique().to_pylist()))
    classes = find_task(manifest.task).classes
    return {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": manifest.split,
        "description": f"{plural(manifest.n_images, 'image')} of skin lesions by subset "
        f"({_counts(manifest.class_counts)}), labelled {', '.join(classes)}. Manifest {digest}. "
        "For research, not for diagnosis.",
        "version": f"1.0.0+{digest[:12]}",
        "datePublished": manifest.created_at.date().isoformat(),
        "license": _licences(table["copyright_license"].unique().to_pylist()),
        "creator": [{"@type": "sc:Organization", "name": said} for said in attributions],
        "citeAs": "; ".join(attributions),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "contentUrl": name,
                "encodingFormat": "application/x-parquet",
                "sha256": bucket.digest(manifest.object_key),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": "One row for each image.",
                "key": {"@id": "images/isic_id"},
                "field": _fields(name),
            }
        ],
    }


def _counts(class_counts: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{subset} {sum(counts.values()):,}" for subset, counts in class_counts.items())


def _licences(names: Sequence[str | None]) -> list[str]:
    return [LICENCE_TEXTS.get(name, name) for name in sorted({name or "unknown" for name in names})]


def _fields(file: str) -> list[dict[str, Any]]:
    roles = {"subset": ["cr:Split"], "label": ["cr:Label"]}
    comments = {column.key: column.property.columns[0].comment for column in SOURCES}
    return [
        {
            "@type": "cr:Field",
            "@id": f"images/{name}",
            "name": name,
            "description": comments[name] or name,
            "dataType": [_TYPES[kind], *roles[name]] if name in roles else _TYPES[kind],
            "source": {"fileObject": {"@id": file}, "extract": {"column": name}},
        }
        for name, kind in COLUMNS.items()
    ]

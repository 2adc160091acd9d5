"""Croissant metadata of a release: what its files hold, for machines (format 1.0, mlcommons.org/croissant).

Belongs here: the JSON-LD and nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emid_assets.release.emid_format import AUDIO_COLUMN, ORIGINAL_COLUMN
from emid_assets.release.release_media import Placed

TABLE_ID = "emid-data"
RECORD_SET = "pairs"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

_CONTEXT = {
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


def croissant(
    name: str,
    description: str,
    citation: str,
    licences: Sequence[str],
    table: Placed,
    parquet: Sequence[Placed],
    columns: Mapping[str, str],
    has_media_files: bool,
) -> str:
    """The metadata as JSON, in the same order of keys each time.

    Args:
        name: of the data set.
        description: a sentence or two.
        citation: BibTeX.
        licences: of the rows, each once.
        table: the CSV file.
        parquet: the files that hold rows and media.
        columns: column of the CSV → its meaning, in order.
        has_media_files: whether the media are there as files.
    """
    distribution: list[dict[str, Any]] = [
        _file(TABLE_ID, table, "text/csv"),
        *(_file(file.file, file, "application/x-parquet") for file in parquet),
    ]
    if has_media_files:
        distribution += [
            _files("music", "audio/*", "music/**/*"),
            _files("images", "image/*", "images/**/*"),
        ]
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{RECORD_SET}/{column}",
            "name": column,
            "description": meaning,
            "dataType": "sc:Boolean" if column == ORIGINAL_COLUMN else "sc:Text",
            "source": {"fileObject": {"@id": TABLE_ID}, "extract": {"column": column}},
        }
        for column, meaning in columns.items()
    ]
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": description,
        "citeAs": citation,
        "license": list(licences),
        "url": "https://arxiv.org/abs/2308.07622",
        "version": "1.0.0",
        "distribution": distribution,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORD_SET,
                "name": RECORD_SET,
                "description": "One row for each clip, with its images.",
                "key": {"@id": f"{RECORD_SET}/{AUDIO_COLUMN}"},
                "field": fields,
            }
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _file(identity: str, file: Placed, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": identity,
        "name": identity,
        "contentUrl": file.file,
        "contentSize": f"{file.size_bytes} B",
        "encodingFormat": encoding,
        "sha256": file.sha256,
    }


def _files(identity: str, encoding: str, pattern: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": identity,
        "name": identity,
        "encodingFormat": encoding,
        "includes": pattern,
    }

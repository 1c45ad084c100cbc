"""A published set in Croissant, the format of data sets that mlcommons.org describes and NeurIPS asks for.

``croissant.json`` lists the files with their hashes, and one record an image: the image, joined by its path with its
row of ``metadata.csv``.
"""

import mimetypes
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

from dgs_utils.store.atomic import write_json
from dgs_utils.store.hashing import hash_file

CROISSANT = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.0"
TERMS = ("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
         "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path",
         "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
         "subField", "transform")
CONTEXT = {"@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
           "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
           "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo",
           "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
           "dataType": {"@id": "cr:dataType", "@type": "@vocab"}} | {term: f"cr:{term}" for term in TERMS}
LIST = "metadata.csv"
PATH = r"(images/[^/]+/[^/]+)$"  # of an image below the set's folder
MEANINGS = {
    "file_name": "path of the image", "class": "name of its class", "label": "number of its class, from 0",
    "score": "difficulty: 1 minus the scorer's probability of the true class",
    "transformed": "difficulty after the clipped logarithm", "generator": "what made the image",
    "seed": "pool seed", "index": "number among the generator's images of the class", "source": "former file name"}


def write_croissant(folder: Path, table: pd.DataFrame, name: str, description: str, licence: str, date: str) -> None:
    """Write the Croissant file of a published set that is complete but for it.

    Args:
        folder: the set, with ``images`` and ``metadata.csv``.
        table: what ``metadata.csv`` holds.
        name: of the set.
        description: one sentence.
        licence: of the images.
        date: when it was made, as YYYY-MM-DD.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CROISSANT)
    kinds = sorted(set(table["file_name"].map(lambda name: Path(name).suffix)))
    images = {"@type": "cr:FileSet", "@id": "image-files", "name": "image-files", "description": "the images",
              "encodingFormat": _one_or_all([_media_type(f"a{kind}") for kind in kinds]),
              "includes": _one_or_all([f"images/*/*{kind}" for kind in kinds])}
    write_json(folder / CROISSANT, {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": VERSION, "name": name, "description": description,
        "license": licence, "datePublished": date, "version": "1.0.0",
        "distribution": [*map(_file_object, files), images],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "images", "name": "images", "description": "one record an image",
                       "key": {"@id": "images/file_name"},
                       "field": [_image(), *(_field(column, table[column]) for column in table)]}],
    })


def _one_or_all(values: list[str]) -> str | list[str]:
    values = list(dict.fromkeys(values))
    return values[0] if len(values) == 1 else values


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or {".md": "text/markdown"}.get(Path(name).suffix, "application/octet-stream")


def _file_object(path: Path) -> dict[str, Any]:
    entry = hash_file(path)
    return {"@type": "cr:FileObject", "@id": path.name, "name": path.name, "contentUrl": path.name,
            "contentSize": f"{entry['bytes']} B", "encodingFormat": _media_type(path.name), "sha256": entry["sha256"]}


def _image() -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": "images/image", "name": "image", "description": "the image",
            "dataType": "sc:ImageObject",
            "source": {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "content"}}}


def _field(name: str, values: Any) -> dict[str, Any]:
    """Return a column of the list; by the file's name the records of both sources are joined."""
    whole = types.is_integer_dtype(values) and not values.isna().any()
    kind = "sc:Integer" if whole else "sc:Float" if types.is_numeric_dtype(values) else "sc:Text"
    field = {"@type": "cr:Field", "@id": f"images/{name}", "name": name, "description": MEANINGS.get(name, name),
             "dataType": kind}
    column = {"fileObject": {"@id": LIST}, "extract": {"column": name}}
    if name != "file_name":
        return field | {"source": column}
    path = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "fullpath"}, "transform": {"regex": PATH}}
    return field | {"source": path, "references": column}

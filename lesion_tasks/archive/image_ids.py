"""Image ids -> whose they are: the archive's own, or a name in the namespace of somebody's own pictures.

An own id is `namespace.name`, such as `clinic.IMG_7`. A namespace begins with a small letter, so it never meets the
archive's `ISIC_`; a name has only characters that bucket keys, file names and addresses of pages leave unchanged.
Patients and lesions of own pictures are `namespace.patient:name` and `namespace.lesion:name`; no image id has a colon.
"""

import hashlib
import re

from lesion_tasks.archive.vocabulary import ISIC_ID

NAMESPACE = re.compile(r"[a-z][a-z0-9-]{1,23}")
RESERVED = frozenset({"isic"})  # would be read as the archive's
NAMESPACE_IN_WORDS = "2 to 24 small letters, digits and hyphens, beginning with a letter, and not isic"
MAX_NAME_CHARACTERS = 64
OWN_ID_FORM = r"[a-z][a-z0-9-]{1,23}[.][A-Za-z0-9_-]{1,64}"
# Read alike by Python, pandas and Postgres.
IMAGE_ID_FORM = rf"({ISIC_ID.pattern}|{OWN_ID_FORM})"
IMAGE_ID_IN_WORDS = "ISIC_ and 7 digits, or namespace.name"
MAX_ID_CHARACTERS = 24 + 1 + MAX_NAME_CHARACTERS

_IMAGE_ID = re.compile(IMAGE_ID_FORM, re.ASCII)
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
N_DIGEST_CHARACTERS = 10


def is_image_id(text: str) -> bool:
    """Tell whether a text is a well-formed image id, the archive's or an own one."""
    return _IMAGE_ID.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Tell whether a text may name somebody's own pictures."""
    return NAMESPACE.fullmatch(text) is not None and text not in RESERVED


def is_id_of(namespace: str | None, isic_id: str) -> bool:
    """Tell whether a source may send this id: the archive's form, or, with a namespace, a name in it."""
    if ISIC_ID.fullmatch(isic_id):
        return isic_id.isascii()
    return namespace is not None and is_image_id(isic_id) and isic_id.startswith(f"{namespace}.")


def id_of(namespace: str, name: str) -> str:
    """Return the image id of a picture that its owner calls `name`, which is not empty.

    The archive's ids stay what they are. A name with other characters than letters, digits, `_` and `-` is spelled with
    hyphens and ends in 10 hexadecimal digits of its SHA-256, so that no two names meet.
    """
    if ISIC_ID.fullmatch(name):
        return name
    if _SAFE_NAME.fullmatch(name):
        return f"{namespace}.{name}"
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:N_DIGEST_CHARACTERS]
    spelled = _UNSAFE.sub("-", name).strip("-")[: MAX_NAME_CHARACTERS - 1 - N_DIGEST_CHARACTERS]
    return f"{namespace}.{spelled}-{digest}" if spelled else f"{namespace}.{digest}"


def identity_of(namespace: str, kind: str, name: str) -> str:
    """Return the id of a patient or a lesion (`kind`) that its owner calls `name`.

    The archive's own ids stay: they name the same patient in every source.
    """
    is_archives = re.fullmatch("IP_[0-9]{7}" if kind == "patient" else "IL_[0-9]{7}", name)
    return name if is_archives else f"{namespace}.{kind}:{name}"


def folder_of(isic_id: str, sha256: str) -> str:
    """Return the folder of a picture below its rendition in the bucket: at most some thousand pictures lie in one."""
    if ISIC_ID.fullmatch(isic_id):
        return isic_id[5:7]
    return f"{isic_id.partition('.')[0]}/{sha256[:2]}"
